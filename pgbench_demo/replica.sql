-- The second database. `balance` is what the deltas add up to, so that an event that is lost or done
-- twice shows; `history` is what it was after each event, and what the event said that it should be.
create table balance (
  kind    text   not null,
  id      int    not null,
  balance bigint not null,
  primary key (kind, id)
) with (fillfactor = 50);

create table history (
  n       bigint generated always as identity primary key,
  kind    text   not null,
  id      int    not null,
  balance bigint not null,
  said    bigint not null,
  emitted timestamptz not null           -- by the event; for the live view only
);
