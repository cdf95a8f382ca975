-- The embedded log. `identity` is random, so a topic that is made anew is another.
CREATE TABLE oncebox_log_topic (
  id              INTEGER PRIMARY KEY AUTOINCREMENT,
  name            TEXT    NOT NULL UNIQUE,
  identity        TEXT    NOT NULL,
  retention_ms    INTEGER,                     -- since written; null: for ever
  retention_bytes INTEGER                      -- of a partition; null: no bound
);

-- Offsets `start` to below `next` can be read. Ids are never used again, so that a reader notices
-- that its topic was deleted.
CREATE TABLE oncebox_log_partition (
  id       INTEGER PRIMARY KEY AUTOINCREMENT,
  topic    INTEGER NOT NULL REFERENCES oncebox_log_topic (id),
  number   INTEGER NOT NULL,
  start    INTEGER NOT NULL DEFAULT 0,
  next     INTEGER NOT NULL DEFAULT 0,
  bytes    INTEGER NOT NULL DEFAULT 0,
  time_max INTEGER NOT NULL DEFAULT 0,
  UNIQUE (topic, number)
);

-- Records `base` to `base + count - 1` as bytes. `time_max` is that of all records up to its last,
-- so it never falls. Not WITHOUT ROWID: large rows are read five times faster so.
CREATE TABLE oncebox_log_block (
  partition  INTEGER NOT NULL,
  base       INTEGER NOT NULL,
  count      INTEGER NOT NULL,
  bytes      INTEGER NOT NULL,
  written_ms INTEGER NOT NULL,
  time_max   INTEGER NOT NULL,
  data       BLOB    NOT NULL,
  PRIMARY KEY (partition, base)
);

CREATE TABLE oncebox_log_format (version INTEGER NOT NULL);
INSERT INTO oncebox_log_format VALUES (1);
