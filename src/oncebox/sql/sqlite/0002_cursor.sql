-- Where a reader stands: a relay in its outbox, a consumer in a partition of a log.
-- `term` rises with every change of owner; whoever moves `position` compares its own term in the
-- same statement. The lease columns are hints: only the term fences.
CREATE TABLE oncebox_cursor (
  reader      TEXT    NOT NULL,               -- 'relay:shop' or the consumer's name
  topic       TEXT    NOT NULL,
  partition   INTEGER NOT NULL,
  position    TEXT,                           -- next to read, in the log's own terms; null: not begun
  identity    TEXT,                           -- the topic's identity when the position was stored
  term        INTEGER NOT NULL DEFAULT 0,
  holder      TEXT,
  lease_until INTEGER NOT NULL DEFAULT 0,     -- Unix ms
  takeovers   INTEGER NOT NULL DEFAULT 0,     -- owners that died in a row at this position
  suspect     TEXT,                           -- the event that was running when single events are tried
  open_batch  INTEGER REFERENCES oncebox_closed (id) DEFERRABLE INITIALLY DEFERRED,
  applied     INTEGER NOT NULL DEFAULT 0,
  ignored     INTEGER NOT NULL DEFAULT 0,
  voided      INTEGER NOT NULL DEFAULT 0,
  duplicates  INTEGER NOT NULL DEFAULT 0,
  late        INTEGER NOT NULL DEFAULT 0,
  orphans     INTEGER NOT NULL DEFAULT 0,
  before_start INTEGER NOT NULL DEFAULT 0,
  forks       INTEGER NOT NULL DEFAULT 0,
  quarantined INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (reader, topic, partition)
) WITHOUT ROWID;

-- A batch marks its cursor rows open first and closes them last. No row of `closed` exists, and
-- the reference is checked at commit: so a handler's own COMMIT inside a batch fails.
CREATE TABLE oncebox_closed (id INTEGER PRIMARY KEY);

CREATE TABLE oncebox_member (
  reader      TEXT    NOT NULL,
  holder      TEXT    NOT NULL,
  lease_until INTEGER NOT NULL,
  PRIMARY KEY (reader, holder)
) WITHOUT ROWID;
