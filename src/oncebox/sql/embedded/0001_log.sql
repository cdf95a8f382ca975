-- The embedded log. `identity` is random, so a topic that is made anew is another.
CREATE TABLE oncebox_log_topic (
  id           INTEGER PRIMARY KEY AUTOINCREMENT,
  name         TEXT    NOT NULL UNIQUE,
  identity     TEXT    NOT NULL,
  retention_ms INTEGER                      -- since written; null: for ever
);

-- Offsets `start` to below `next` can be read; `time_ms` is that of the last record. Ids are never
-- used again, so that a reader notices that its topic was deleted.
CREATE TABLE oncebox_log_partition (
  id      INTEGER PRIMARY KEY AUTOINCREMENT,
  topic   INTEGER NOT NULL REFERENCES oncebox_log_topic (id),
  number  INTEGER NOT NULL,
  start   INTEGER NOT NULL DEFAULT 0,
  next    INTEGER NOT NULL DEFAULT 0,
  time_ms INTEGER NOT NULL DEFAULT 0,
  UNIQUE (topic, number)
);

-- `id` is the partition's id and, in the lower 40 bits, the offset: one tree, read in order. Along
-- a partition neither `time_ms` nor `written_ms` falls. `headers`: msgpack, [[name, value] …].
CREATE TABLE oncebox_log_record (
  id         INTEGER PRIMARY KEY,
  time_ms    INTEGER NOT NULL,
  written_ms INTEGER NOT NULL,
  key        BLOB,
  value      BLOB,
  headers    BLOB    NOT NULL
);

CREATE TABLE oncebox_log_format (version INTEGER NOT NULL);
INSERT INTO oncebox_log_format VALUES (1);
