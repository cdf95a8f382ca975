-- The producer's tables: who writes (source), and what was emitted (event) with its place in its
-- key's chain. SQLite has one writer, so events are numbered when they are emitted, the order of
-- `n` is commit order, and "n above the last one" is a sound way to read what is new.

CREATE TABLE oncebox_source (
  name TEXT    NOT NULL PRIMARY KEY,      -- '/shop/orders'
  low  INTEGER NOT NULL DEFAULT 0         -- all stamps to come are above it
) WITHOUT ROWID;

-- Without AUTOINCREMENT, whose own table costs one more page per transaction: `n` grows because
-- the newest row is never deleted, see oncebox_newest.
CREATE TABLE oncebox_event (
  n            INTEGER PRIMARY KEY,
  source       TEXT    NOT NULL,
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
  source   TEXT    NOT NULL,
  key      TEXT    NOT NULL,
  sequence INTEGER NOT NULL,
  stamp    INTEGER NOT NULL,
  n        INTEGER NOT NULL,
  PRIMARY KEY (source, key)
) WITHOUT ROWID;

-- Keys whose next event the log did not take: they wait, all others go on.
CREATE TABLE oncebox_refused (
  source    TEXT    NOT NULL,
  key       TEXT,                   -- null: the un-keyed event at `position`
  position  INTEGER PRIMARY KEY,    -- the first event that is not published
  sequence  INTEGER,
  attempts  INTEGER NOT NULL,
  permanent INTEGER NOT NULL,       -- trying again cannot help unless the log is changed
  retry_at  REAL    NOT NULL,       -- Unix seconds
  reason    TEXT    NOT NULL
);

-- REPLACE, since an upsert costs 4 % of an emit's processor time. A version that adds a column to the
-- counter makes this trigger anew.
CREATE TRIGGER oncebox_number AFTER INSERT ON oncebox_event WHEN NEW.key IS NOT NULL
BEGIN
  INSERT OR REPLACE INTO oncebox_counter (source, key, sequence, stamp, n)
    VALUES (NEW.source, NEW.key, NEW.sequence, NEW.stamp, NEW.n);
END;

CREATE TRIGGER oncebox_meet AFTER INSERT ON oncebox_event WHEN coalesce(NEW.sequence, 1) = 1
BEGIN
  INSERT OR IGNORE INTO oncebox_source (name) VALUES (NEW.source);
END;

-- Its number would be given again, to an event that relays take for one that they have passed.
CREATE TRIGGER oncebox_newest BEFORE DELETE ON oncebox_event
WHEN OLD.n = (SELECT max(n) FROM oncebox_event)
BEGIN
  SELECT raise(ABORT, 'oncebox: the newest event stays, it numbers the next; to erase it: data = null');
END;

CREATE TRIGGER oncebox_await BEFORE INSERT ON oncebox_event
WHEN NEW.after_key IS NOT NULL AND NEW.after_stamp IS NULL
BEGIN
  SELECT raise(ABORT, 'oncebox: after= names a key that has no event here');
END;
