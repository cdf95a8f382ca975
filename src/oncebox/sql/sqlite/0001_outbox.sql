-- The producer's tables: who writes (source), and what was emitted (event) with its place in its
-- key's chain. SQLite has one writer, so events are numbered when they are emitted, the order of
-- `n` is commit order, and "n above the last one" is a sound way to read what is new.

CREATE TABLE oncebox_source (
  id     INTEGER PRIMARY KEY,
  name   TEXT    NOT NULL UNIQUE,                                 -- '/shop/orders'
  origin TEXT    NOT NULL DEFAULT (lower(hex(randomblob(16)))),   -- the database that owns the chains
  low    INTEGER NOT NULL DEFAULT 0                               -- all stamps to come are above it
);

-- Without AUTOINCREMENT, whose own table costs one more page per transaction: `n` grows because
-- the newest row is never deleted.
CREATE TABLE oncebox_event (
  n            INTEGER PRIMARY KEY,
  source_id    INTEGER NOT NULL,
  sequence     INTEGER,             -- null: un-keyed
  stamp        INTEGER NOT NULL,    -- microseconds since 1970 * 1024 + random bits
  previous     INTEGER,             -- the stamp of the key's event before it
  before       INTEGER,             -- the n of the key's event before it
  id           TEXT    NOT NULL,
  version      INTEGER,
  type         TEXT    NOT NULL,
  key          TEXT,                -- null: un-keyed
  data         BLOB,                -- null: void
  content_type TEXT,                -- null: application/json
  attributes   TEXT,                -- further attributes as JSON, such as traceparent
  after_source TEXT,                -- the event of another key that has to be first
  after_key    TEXT,
  after_stamp  INTEGER
);

-- The last event of each key.
CREATE TABLE oncebox_counter (
  source_id INTEGER NOT NULL,
  key       TEXT    NOT NULL,
  sequence  INTEGER NOT NULL,
  stamp     INTEGER NOT NULL,
  n         INTEGER NOT NULL,
  PRIMARY KEY (source_id, key)
) WITHOUT ROWID;

-- Keys whose next event the log did not take: they wait, all others go on.
CREATE TABLE oncebox_refused (
  source_id INTEGER NOT NULL,
  key       TEXT,                   -- null: the un-keyed event at `position`
  position  INTEGER NOT NULL,       -- the first event that is not published
  sequence  INTEGER,
  attempts  INTEGER NOT NULL,
  permanent INTEGER NOT NULL,       -- trying again cannot help unless the log is changed
  retry_at  REAL    NOT NULL,       -- Unix seconds
  reason    TEXT    NOT NULL,
  PRIMARY KEY (source_id, position)
) WITHOUT ROWID;

-- What emit inserts into: one statement from outside, numbered inside.
CREATE VIEW oncebox_emit AS
  SELECT '' AS source, id, key, type, version, data,
         content_type, attributes, after_source, after_key, after_stamp
  FROM oncebox_event;

CREATE TRIGGER oncebox_number INSTEAD OF INSERT ON oncebox_emit
BEGIN
  INSERT INTO oncebox_source (name)
    SELECT NEW.source WHERE NOT EXISTS (SELECT 1 FROM oncebox_source WHERE name = NEW.source);
  SELECT raise(ABORT, 'oncebox: after= names a key that has no event here')
    WHERE NEW.after_key IS NOT NULL AND NEW.after_stamp IS NULL AND NOT EXISTS (
      SELECT 1 FROM oncebox_counter c JOIN oncebox_source s ON s.id = c.source_id
      WHERE s.name = NEW.after_source AND c.key = NEW.after_key);
  INSERT INTO oncebox_event (
      source_id, sequence, stamp, previous, before, id, version, type, key, data,
      content_type, attributes, after_source, after_key, after_stamp)
    SELECT s.id,
      CASE WHEN NEW.key IS NOT NULL THEN coalesce(c.sequence, 0) + 1 END,
      max(CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) * 1024000
            + abs(random() % 1024000),
          (max(coalesce(c.stamp, 0), s.low) | 1023) + 1 + (random() & 1023)),
      c.stamp, c.n, NEW.id, NEW.version, NEW.type, NEW.key, NEW.data,
      NEW.content_type, NEW.attributes, NEW.after_source, NEW.after_key,
      coalesce(NEW.after_stamp, (
        SELECT a.stamp FROM oncebox_counter a JOIN oncebox_source t ON t.id = a.source_id
        WHERE t.name = NEW.after_source AND a.key = NEW.after_key))
    FROM oncebox_source s
      LEFT JOIN oncebox_counter c ON c.source_id = s.id AND c.key = NEW.key
    WHERE s.name = NEW.source;
  INSERT INTO oncebox_counter (source_id, key, sequence, stamp, n)
    SELECT source_id, key, sequence, stamp, n FROM oncebox_event
    WHERE n = last_insert_rowid() AND key IS NOT NULL
    ON CONFLICT (source_id, key) DO UPDATE
      SET sequence = excluded.sequence, stamp = excluded.stamp, n = excluded.n;
END;
