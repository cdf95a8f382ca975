-- Where a reader stands: a relay in its outbox, a consumer in a partition of a log.
-- `term` rises with every change of owner; whoever moves `position` compares its own term in the
-- same statement. The lease columns are hints: only the term fences.
create table oncebox.cursor (
  reader      text   not null,               -- 'relay:shop' or the consumer's name
  topic       text   not null,
  partition   int    not null,
  position    text,                          -- next to read, in the log's own terms; null: not begun
  identity    text,                          -- the topic's identity when the position was stored
  term        bigint not null default 0,
  holder      text,
  lease_until bigint not null default 0,     -- database clock, Unix ms
  takeovers   int    not null default 0,     -- owners that died in a row at this position
  suspect     text,                          -- the event that was running when single events are tried
  open_batch  int,
  applied     bigint not null default 0,
  ignored     bigint not null default 0,
  voided      bigint not null default 0,
  duplicates  bigint not null default 0,
  late        bigint not null default 0,
  orphans     bigint not null default 0,
  before_start bigint not null default 0,
  forks       bigint not null default 0,
  quarantined bigint not null default 0,
  primary key (reader, topic, partition)
) with (fillfactor = 50);

-- A batch marks its cursor rows open first and closes them last. No row of `closed` exists, and
-- the reference is checked at commit: so a handler's own COMMIT inside a batch fails.
create table oncebox.closed (id int primary key);
alter table oncebox.cursor add constraint cursor_open_batch_fkey
  foreign key (open_batch) references oncebox.closed (id) deferrable initially deferred;

create table oncebox.member (
  reader      text   not null,
  holder      text   not null,
  lease_until bigint not null,
  primary key (reader, holder)
);
