-- What operators look at and change. SQLite has one writer, so whoever changes a key has all of
-- them locked; whoever moves a position changes its term.

-- name: consumers
SELECT consumer FROM oncebox_subscription WHERE source = ''
UNION
SELECT reader FROM oncebox_cursor WHERE reader NOT LIKE 'relay:%'
ORDER BY 1;

-- name: cursor_rows
SELECT topic, partition, position, identity, term,
  CASE WHEN lease_until >= CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)
    THEN holder END,
  lease_until - CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER), takeovers, suspect,
  applied, ignored, voided, duplicates, late, orphans, before_start, forks, quarantined
FROM oncebox_cursor WHERE reader = ?1 ORDER BY topic, partition;

-- name: relays
SELECT reader, topic, partition, position,
  CASE WHEN lease_until >= CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)
    THEN holder END
FROM oncebox_cursor WHERE reader LIKE 'relay:%' ORDER BY reader, topic, partition;

-- name: held_summary
-- Keys that are tried again by themselves, failed for good, forked; keys not parked with events
-- kept; how many of those have a gap, and since when; all events kept.
SELECT
  count(*) FILTER (WHERE park = 'poison' AND due_ms IS NOT NULL),
  count(*) FILTER (WHERE park = 'poison' AND due_ms IS NULL),
  count(*) FILTER (WHERE park = 'fork'),
  count(*) FILTER (WHERE park IS NULL),
  count(*) FILTER (WHERE missing),
  min(since_ms) FILTER (WHERE missing),
  coalesce(sum(kept), 0)
FROM (
  SELECT k.park, k.due_ms, k.kept,
    k.park IS NULL AND NOT (CASE WHEN k.sequence >= 0
      THEN e.sequence = k.sequence + 1 AND coalesce(e.previous, -1) = k.stamp
      ELSE coalesce(e.previous, -1) < s.floor AND s.floor <= e.stamp END) AS missing,
    (SELECT min(o.kept_ms) FROM oncebox_kept o
     WHERE o.subscription = k.subscription AND o.key = k.key) AS since_ms
  FROM oncebox_subscription s
  JOIN oncebox_key k INDEXED BY oncebox_key_held ON k.subscription = s.id AND (k.park IS NOT NULL OR k.kept > 0)
  LEFT JOIN oncebox_kept e ON e.rowid = (
    SELECT f.rowid FROM oncebox_kept f WHERE f.subscription = k.subscription AND f.key = k.key
    ORDER BY f.sequence, f.stamp LIMIT 1)
  WHERE s.consumer = ?1);

-- name: quarantine_count
SELECT count(*) FROM oncebox_quarantine WHERE consumer = ?1;

-- name: effects_open
-- Effects outside the database that were begun and whose result is not known.
SELECT count(*), min(begun_ms) FROM oncebox_effect WHERE consumer = ?1 AND done_ms IS NULL;

-- name: held_keys
-- One page of the keys that wait, each with its lowest kept event, behind (?2, ?3).
-- ?4 source or null, ?5 key or null, ?6 how many, ?7 bytes of a record that is returned at most.
SELECT k.subscription, s.source, s.floor, k.key, k.sequence, k.stamp, k.park, k.reason,
  k.attempts, k.parked_ms, k.due_ms, k.kept,
  e.sequence, e.stamp, e.previous, e.id, e.void, a.source, e.after_key, e.after_stamp,
  (SELECT min(o.kept_ms) FROM oncebox_kept o
   WHERE o.subscription = k.subscription AND o.key = k.key),
  CASE WHEN length(e.record) <= ?7 THEN e.record END
FROM oncebox_subscription s
JOIN oncebox_key k INDEXED BY oncebox_key_held ON k.subscription = s.id AND (k.park IS NOT NULL OR k.kept > 0)
LEFT JOIN oncebox_kept e ON e.rowid = (
  SELECT f.rowid FROM oncebox_kept f WHERE f.subscription = k.subscription AND f.key = k.key
  ORDER BY f.sequence, f.stamp LIMIT 1)
LEFT JOIN oncebox_subscription a ON a.id = e.after_subscription
WHERE s.consumer = ?1 AND (k.subscription, k.key) > (?2, ?3)
  AND (?4 IS NULL OR s.source = ?4) AND (?5 IS NULL OR k.key = ?5)
ORDER BY k.subscription, k.key LIMIT ?6;

-- name: kept_record
SELECT record FROM oncebox_kept
WHERE subscription = ?1 AND key = ?2 AND sequence = ?3 AND stamp = ?4 AND id = ?5
LIMIT 1;

-- name: known_key
-- The rows that a key has, held or not.
SELECT s.source, k.sequence, k.stamp FROM oncebox_key k
JOIN oncebox_subscription s ON s.id = k.subscription AND s.consumer = ?1
WHERE k.key = ?2 AND (?3 IS NULL OR s.source = ?3)
ORDER BY s.source;

-- name: make_due
-- Rows: the keys that are tried again now. A key without a row was parked, perhaps, since its event
-- is older than the floor: now somebody says that it was not done, so the row stands before it.
UPDATE oncebox_key SET due_ms = ?1, attempts = 0,
  (sequence, stamp) = (
    SELECT CASE WHEN oncebox_key.sequence < 0 THEN e.sequence - 1 ELSE oncebox_key.sequence END,
      CASE WHEN oncebox_key.sequence < 0 THEN coalesce(e.previous, -1) ELSE oncebox_key.stamp END
    FROM oncebox_kept e
    WHERE e.subscription = oncebox_key.subscription AND e.key = oncebox_key.key
    ORDER BY e.sequence, e.stamp LIMIT 1)
WHERE park = 'poison' AND (subscription, key) IN (
  SELECT value ->> 0, value ->> 1 FROM json_each(?2))
RETURNING subscription, key;

-- name: wake_key
UPDATE oncebox_key SET due_ms = ?3 WHERE subscription = ?1 AND key = ?2;

-- name: drop_wait
-- An event that waited for one of another key, without that wait: ?6 is its record without it.
UPDATE oncebox_kept SET after_subscription = NULL, after_key = NULL, after_stamp = NULL, record = ?6
WHERE subscription = ?1 AND key = ?2 AND sequence = ?3 AND stamp = ?4 AND id = ?5
RETURNING 1;

-- name: orphaned
-- Rows: key and event (a Link as JSON) that `accept` gave up, and that is in no accepted history
-- since.
SELECT o.key, o.detail
FROM json_each(?3) v
CROSS JOIN oncebox_journal o ON o.consumer = ?1 AND o.source = ?2 AND o.key = v.value ->> 0
  AND o.what = 'orphaned'
WHERE NOT EXISTS (
  SELECT 1 FROM oncebox_journal a
  WHERE a.consumer = ?1 AND a.source = ?2 AND a.key = o.key AND a.id = o.id AND a.n > o.n
    AND a.what IN ('orphaned', 'adopted'))
ORDER BY o.n;

-- name: journal
-- The newest notes below ?2, newest first; ?3 what, ?4 key, each null for all.
SELECT n, at_ms, what, source, key, sequence, stamp, id, detail FROM oncebox_journal
WHERE consumer = ?1 AND n < ?2 AND (?3 IS NULL OR what = ?3) AND (?4 IS NULL OR key = ?4)
ORDER BY n DESC LIMIT ?5;

-- name: gap_source
-- Keys of a source that wait for an event that has not come since ?3, the longest waiting first.
SELECT key FROM (
  SELECT k.key,
    CASE WHEN k.sequence >= 0
      THEN e.sequence = k.sequence + 1 AND coalesce(e.previous, -1) = k.stamp
      ELSE coalesce(e.previous, -1) < s.floor AND s.floor <= e.stamp END AS is_next,
    (SELECT min(o.kept_ms) FROM oncebox_kept o
     WHERE o.subscription = k.subscription AND o.key = k.key) AS since_ms
  FROM oncebox_subscription s
  JOIN oncebox_key k INDEXED BY oncebox_key_held
    ON k.subscription = s.id AND k.kept > 0 AND k.park IS NULL
  JOIN oncebox_kept e ON e.rowid = (
    SELECT f.rowid FROM oncebox_kept f WHERE f.subscription = k.subscription AND f.key = k.key
    ORDER BY f.sequence, f.stamp LIMIT 1)
  WHERE s.consumer = ?1 AND s.source = ?2)
WHERE since_ms <= ?3 AND NOT is_next
ORDER BY since_ms, key LIMIT ?4;

-- name: lock_cursors
SELECT topic, partition, position, term FROM oncebox_cursor
WHERE reader = ?1 ORDER BY topic, partition;

-- name: set_back
-- Whoever holds the cursor is fenced by the new term, takes it again, and reads from here.
UPDATE oncebox_cursor SET position = ?4, term = term + 1, holder = NULL, lease_until = 0,
  takeovers = 0, suspect = NULL
WHERE reader = ?1 AND topic = ?2 AND partition = ?3
RETURNING term;

-- name: reset_cursors
-- As if the consumer had never read: it begins where its settings say.
UPDATE oncebox_cursor SET position = NULL, identity = NULL, term = term + 1, holder = NULL,
  lease_until = 0, takeovers = 0, suspect = NULL, applied = 0, ignored = 0, voided = 0,
  duplicates = 0, late = 0, orphans = 0, before_start = 0, forks = 0, quarantined = 0
WHERE reader = ?1;

-- name: clear_kept
DELETE FROM oncebox_kept
WHERE subscription IN (SELECT id FROM oncebox_subscription WHERE consumer = ?1);

-- name: forget_keys
-- As if no event had been done; up to where each key was, unless ?2, nothing is emitted again.
UPDATE oncebox_key SET
  had = CASE WHEN ?2 THEN -1 ELSE max(had, stamp) END,
  sequence = -1, stamp = -1, id = '', digest = 0, cutoff = 0, park = NULL, skipped = NULL, kept = 0,
  awaited = 0, attempts = 0, reason = NULL, parked_ms = NULL, due_ms = NULL
WHERE subscription IN (SELECT id FROM oncebox_subscription WHERE consumer = ?1);

-- name: forget_floors
-- The floor that the consumer began with; what was pruned below another one was had.
UPDATE oncebox_subscription SET
  floor = coalesce((SELECT b.floor FROM oncebox_subscription b
                    WHERE b.consumer = ?1 AND b.source = ''), 0),
  had = CASE WHEN ?2 THEN -1 ELSE max(had, floor - 1) END
WHERE consumer = ?1 AND source NOT LIKE '%#claim';

-- name: begin_quietly
-- A consumer that begins: its floor, and the stamp up to which nothing is emitted.
INSERT INTO oncebox_subscription (consumer, source, floor, had) VALUES (?1, '', ?2, ?3)
ON CONFLICT (consumer, source) DO UPDATE SET had = excluded.had;

-- name: finish_keys
UPDATE oncebox_key SET had = -1
WHERE had >= 0 AND subscription IN (SELECT id FROM oncebox_subscription WHERE consumer = ?1);

-- name: finish_subscriptions
UPDATE oncebox_subscription SET had = -1 WHERE consumer = ?1 AND had >= 0;

-- name: begin_rebuild
INSERT INTO oncebox_rebuild (consumer, topic, partition, until, begun_ms) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (consumer, topic, partition)
DO UPDATE SET until = excluded.until, begun_ms = excluded.begun_ms;

-- name: rebuilding
SELECT topic, partition, until FROM oncebox_rebuild WHERE consumer = ?1 ORDER BY topic, partition;

-- name: end_rebuild
DELETE FROM oncebox_rebuild WHERE consumer = ?1 RETURNING topic, partition;

-- name: clear_quarantine
DELETE FROM oncebox_quarantine WHERE consumer = ?1;

-- name: quarantined
-- Records from number ?2 on, or the one with that number where ?3.
SELECT n, at_ms, topic, partition, "offset", reason, record FROM oncebox_quarantine
WHERE consumer = ?1 AND (n = ?2 OR (n > ?2 AND NOT ?3))
ORDER BY n LIMIT ?4;

-- name: quarantine_numbers
SELECT n, topic, partition, "offset", reason, at_ms, length(record) FROM oncebox_quarantine
WHERE consumer = ?1 AND n > ?2 ORDER BY n LIMIT ?3;

-- name: lock_quarantined
SELECT record FROM oncebox_quarantine WHERE consumer = ?1 AND n = ?2;

-- name: drop_quarantined
DELETE FROM oncebox_quarantine WHERE consumer = ?1 AND n = ?2 RETURNING 1;

-- name: last_number
-- The number of the last event of a key, whether it is still there or not; no row: no such source.
SELECT (SELECT c.sequence FROM oncebox_counter c WHERE c.source = s.name AND c.key = ?2)
FROM oncebox_source s WHERE s.name = ?1;

-- name: raise_low
UPDATE oncebox_source SET low = ?2 WHERE substr(name, 1, length(?1)) = ?1 AND low < ?2;
