-- What a consumer knows. All of it changes in the transaction of the handler's effects.

-- A consumer reads a source from `floor` on: 0 for one that starts at the beginning. `had`: up to this
-- stamp what handlers emit and ask for by `once` was had before, by a state that is built anew.
create table oncebox.subscription (
  id       int    generated always as identity primary key,
  consumer text   not null,
  source   text   not null,
  floor    bigint not null default 0,
  had      bigint not null default -1,
  unique (consumer, source)
);

-- One row per key: the event last done. `due_ms`: when a waiting key is to be tried again.
create table oncebox.key (
  subscription int     not null references oncebox.subscription (id),
  key          text    not null,
  sequence     bigint  not null default -1,     -- -1: nothing done yet
  stamp        bigint  not null default -1,
  id           text    not null default '',
  digest       bigint  not null default 0,
  cutoff       bigint  not null default 0,
  park         text    check (park in ('poison', 'fork')),
  skipped      text,                            -- '[[first, last], …]'
  kept         int     not null default 0,      -- how many rows of `kept` are behind it
  awaited      boolean not null default false,  -- some kept event of another key waits for it
  attempts     int     not null default 0,
  reason       text,
  parked_ms    bigint,
  due_ms       bigint,
  had          bigint  not null default -1,      -- as of its source, where it is above that
  primary key (subscription, key)
) with (fillfactor = 60);
create index key_due on oncebox.key (due_ms) where due_ms is not null;
create index key_held on oncebox.key (subscription) where park is not null or kept > 0;

-- Events that wait: behind a gap, a parked key, or for another key.
create table oncebox.kept (
  subscription int     not null,
  key          text    not null,
  sequence     bigint  not null,
  stamp        bigint  not null,
  id           text    not null,
  previous     bigint,
  digest       bigint  not null,
  void         boolean not null,
  after_subscription int,
  after_key    text,
  after_stamp  bigint,
  kept_ms      bigint  not null,
  record       bytea   not null,
  primary key (subscription, key, sequence, stamp, id, digest, void)
);
create index kept_after on oncebox.kept (after_subscription, after_key) where after_key is not null;

-- `claim`: ids that were done, for whatever is not one of our events.
create table oncebox.inbox (
  subscription int    not null references oncebox.subscription (id),
  id           text   not null,
  stamp        bigint not null,
  primary key (subscription, id)
);

-- What operators did and what has to be listed one by one: forks, orphans, late events, skips.
create table oncebox.journal (
  n        bigint generated always as identity primary key,
  at_ms    bigint not null,
  what     text   not null,
  consumer text   not null,
  source   text,
  key      text,
  sequence bigint,
  stamp    bigint,
  id       text,
  detail   text
);

-- Which events `accept` gave up: asked for at every gap of a key, so it must not cost a scan.
create index journal_key on oncebox.journal (consumer, source, key);

-- Records that cannot be read, as they came.
create table oncebox.quarantine (
  n         bigint generated always as identity primary key,
  at_ms     bigint not null,
  consumer  text   not null,
  topic     text   not null,
  partition int    not null,
  "offset"  bigint not null,
  reason    text   not null,
  record    bytea  not null
);
create index quarantine_place on oncebox.quarantine (consumer, topic, partition, "offset");

-- Effects outside the database: intent before the call, result after it.
create table oncebox.effect (
  consumer   text   not null,
  source     text   not null,
  id         text   not null,
  step       text   not null,
  key        text   not null,                   -- the idempotency key of every try
  tries      int    not null default 1,
  begun_ms   bigint not null,
  done_ms    bigint,
  result     bytea,
  primary key (consumer, source, id, step)
);
create index effect_begun on oncebox.effect (consumer, begun_ms);  -- for pruning

-- A batch that has no cursor (retries, wake-ups) has a row here while it is open, for the same
-- reason: it would fail a COMMIT inside it.
create table oncebox.open_batch (
  closed int not null references oncebox.closed (id) deferrable initially deferred
);

-- How far a consumer that builds its state anew has to read until it is where it was.
create table oncebox.rebuild (
  consumer  text   not null,
  topic     text   not null,
  partition int    not null,
  until     bigint not null,
  begun_ms  bigint not null,
  primary key (consumer, topic, partition)
);
