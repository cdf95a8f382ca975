-- Consumers that build their state anew: their handlers run again. Up to the stamp `had` of a key,
-- or of all keys of a source, what handlers emit and ask for by `once` was had the first time.
ALTER TABLE oncebox_key ADD COLUMN had INTEGER NOT NULL DEFAULT -1;
ALTER TABLE oncebox_subscription ADD COLUMN had INTEGER NOT NULL DEFAULT -1;

-- How far such a consumer has to read until it is where it was.
CREATE TABLE oncebox_rebuild (
  consumer  TEXT    NOT NULL,
  topic     TEXT    NOT NULL,
  partition INTEGER NOT NULL,
  until     INTEGER NOT NULL,
  begun_ms  INTEGER NOT NULL,
  PRIMARY KEY (consumer, topic, partition)
) WITHOUT ROWID;

-- Which events `accept` gave up: asked for at every gap of a key, so it must not cost a scan.
CREATE INDEX oncebox_journal_key ON oncebox_journal (consumer, source, key);
