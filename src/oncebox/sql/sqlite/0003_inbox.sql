-- What a consumer knows. All of it changes in the transaction of the handler's effects.

-- A consumer reads a source from `floor` on: 0 for one that starts at the beginning. `had`: up to this
-- stamp what handlers emit and ask for by `once` was had before, by a state that is built anew.
create table oncebox_subscription (
  id       INTEGER PRIMARY KEY,
  consumer TEXT   not null,
  source   TEXT   not null,
  floor    INTEGER not null default 0,
  had      INTEGER not null default -1,
  unique (consumer, source)
);

-- One row per key: the event last done. `due_ms`: when a waiting key is to be tried again.
create table oncebox_key (
  subscription INTEGER     not null references oncebox_subscription (id),
  key          TEXT    not null,
  sequence     INTEGER  not null default -1,     -- -1: nothing done yet
  stamp        INTEGER  not null default -1,
  id           TEXT    not null default '',
  digest       INTEGER  not null default 0,
  cutoff       INTEGER  not null default 0,
  park         TEXT    check (park in ('poison', 'fork')),
  skipped      TEXT,                            -- '[[first, last], …]'
  kept         INTEGER     not null default 0,      -- how many rows of `kept` are behind it
  awaited      INTEGER not null default 0,  -- some kept event of another key waits for it
  attempts     INTEGER     not null default 0,
  reason       TEXT,
  parked_ms    INTEGER,
  due_ms       INTEGER,
  had          INTEGER not null default -1,      -- as of its source, where it is above that
  primary key (subscription, key)
) WITHOUT ROWID;
create index oncebox_key_due on oncebox_key (due_ms) where due_ms is not null;
create index oncebox_key_held on oncebox_key (subscription) where park is not null or kept > 0;

-- Events that wait: behind a gap, a parked key, or for another key.
create table oncebox_kept (
  subscription INTEGER     not null,
  key          TEXT    not null,
  sequence     INTEGER  not null,
  stamp        INTEGER  not null,
  id           TEXT    not null,
  previous     INTEGER,
  digest       INTEGER  not null,
  void         INTEGER not null,
  after_subscription INTEGER,
  after_key    TEXT,
  after_stamp  INTEGER,
  kept_ms      INTEGER  not null,
  record       BLOB   not null,
  primary key (subscription, key, sequence, stamp, id, digest, void)
);
create index oncebox_kept_after on oncebox_kept (after_subscription, after_key) where after_key is not null;

-- `claim`: ids that were done, for whatever is not one of our events.
create table oncebox_inbox (
  subscription INTEGER    not null references oncebox_subscription (id),
  id           TEXT   not null,
  stamp        INTEGER not null,
  primary key (subscription, id)
) WITHOUT ROWID;

-- What operators did and what has to be listed one by one: forks, orphans, late events, skips.
create table oncebox_journal (
  n        INTEGER PRIMARY KEY AUTOINCREMENT,
  at_ms    INTEGER not null,
  what     TEXT   not null,
  consumer TEXT   not null,
  source   TEXT,
  key      TEXT,
  sequence INTEGER,
  stamp    INTEGER,
  id       TEXT,
  detail   TEXT
);

-- Which events `accept` gave up: asked for at every gap of a key, so it must not cost a scan.
CREATE INDEX oncebox_journal_key ON oncebox_journal (consumer, source, key);

-- Records that cannot be read, as they came.
create table oncebox_quarantine (
  n         INTEGER PRIMARY KEY AUTOINCREMENT,
  at_ms     INTEGER not null,
  consumer  TEXT   not null,
  topic     TEXT   not null,
  partition INTEGER    not null,
  "offset"  INTEGER not null,
  reason    TEXT   not null,
  record    BLOB  not null
);
create index oncebox_quarantine_place on oncebox_quarantine (consumer, topic, partition, "offset");

-- Effects outside the database: intent before the call, result after it.
create table oncebox_effect (
  consumer   TEXT   not null,
  source     TEXT   not null,
  id         TEXT   not null,
  step       TEXT   not null,
  key        TEXT   not null,                   -- the idempotency key of every try
  tries      INTEGER    not null default 1,
  begun_ms   INTEGER not null,
  done_ms    INTEGER,
  result     BLOB,
  primary key (consumer, source, id, step)
);
create index oncebox_effect_begun on oncebox_effect (consumer, begun_ms);  -- for pruning

-- A batch that has no cursor (retries, wake-ups) has a row here while it is open, for the same
-- reason: it would fail a COMMIT inside it.
create table oncebox_open_batch (
  closed INTEGER not null references oncebox_closed (id) deferrable initially deferred
);

-- How far a consumer that builds its state anew has to read until it is where it was.
CREATE TABLE oncebox_rebuild (
  consumer  TEXT    NOT NULL,
  topic     TEXT    NOT NULL,
  partition INTEGER NOT NULL,
  until     INTEGER NOT NULL,
  begun_ms  INTEGER NOT NULL,
  PRIMARY KEY (consumer, topic, partition)
) WITHOUT ROWID;
