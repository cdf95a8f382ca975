-- name: subscribe
INSERT INTO oncebox_subscription (consumer, source, floor, had)
VALUES (?1, ?2, ?3, coalesce(
  (SELECT had FROM oncebox_subscription WHERE consumer = ?1 AND source = ''), -1))
ON CONFLICT (consumer, source) DO NOTHING;

-- name: subscriptions
SELECT source, id, floor, had FROM oncebox_subscription WHERE consumer = ?;

-- name: begin_position
-- A cursor that never stood anywhere starts here.
UPDATE oncebox_cursor SET position = ?5, identity = ?6
WHERE reader = ?1 AND topic = ?2 AND partition = ?3 AND term = ?4
RETURNING position;

-- name: limits
-- Nothing to set: a process that stops inside its batch holds the file until it goes on or dies.
SELECT ?1;

-- name: fence
-- Rows: the cursors that are still ours and stand where we think.
UPDATE oncebox_cursor SET open_batch = 1
WHERE reader = ?1 AND (topic, partition, term, position) IN (
  SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3 FROM json_each(?2))
RETURNING topic, partition;

-- name: close_batch
-- No row: a handler rolled back, and the batch is not what it seems. Owners that died here are
-- forgotten when the position moves.
UPDATE oncebox_cursor SET
  position = ?5, open_batch = NULL,
  takeovers = CASE WHEN position = ?5 THEN takeovers ELSE 0 END,
  suspect = CASE WHEN position = ?5 THEN suspect END,
  lease_until = CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) + ?6,
  applied = applied + ?7, ignored = ignored + ?8, voided = voided + ?9,
  duplicates = duplicates + ?10, late = late + ?11, orphans = orphans + ?12,
  before_start = before_start + ?13, forks = forks + ?14, quarantined = quarantined + ?15
WHERE reader = ?1 AND topic = ?2 AND partition = ?3 AND term = ?4 AND open_batch = 1
RETURNING 1;

-- name: open_batch
-- For a batch without a fence, as in tests of handlers.
INSERT INTO oncebox_open_batch (closed) VALUES (1);

-- name: shut_batch
-- No row, as in close_batch. Nobody ever sees the rows of others: they are not committed.
DELETE FROM oncebox_open_batch RETURNING 1;

-- name: keep_in
-- One writer at a time: nothing to share, nobody to keep out.
select 1 where ? <> '';

-- name: keep_out
select 1 where ? <> '';

-- name: open_under
-- The same for a batch under a term that others work under, too. No row: the term is not ours.
insert into oncebox_open_batch (closed) select 1 from oncebox_cursor
where reader = ? and topic = ? and partition = ? and term = ?
returning 1;

-- name: suspect
UPDATE oncebox_cursor SET suspect = ?5
WHERE reader = ?1 AND topic = ?2 AND partition = ?3 AND term = ?4
RETURNING 1;

-- name: lock_keys
-- Rows of subscription ?1 with a key of ?2, a JSON array; and whether there is more to know, see
-- key_rest. One writer at a time: BEGIN IMMEDIATE has locked them already.
SELECT k.key, k.sequence, k.stamp, k.id, k.digest, k.cutoff,
  k.park IS NOT NULL OR k.kept > 0 OR k.attempts > 0 OR k.awaited OR k.due_ms IS NOT NULL
    OR k.skipped IS NOT NULL OR k.reason IS NOT NULL OR k.had >= 0
FROM json_each(?2) v CROSS JOIN oncebox_key k ON k.subscription = ?1 AND k.key = v.value;

-- name: lock_key
-- The same for one key.
SELECT k.key, k.sequence, k.stamp, k.id, k.digest, k.cutoff,
  k.park IS NOT NULL OR k.kept > 0 OR k.attempts > 0 OR k.awaited OR k.due_ms IS NOT NULL
    OR k.skipped IS NOT NULL OR k.reason IS NOT NULL OR k.had >= 0
FROM oncebox_key k WHERE k.subscription = ?1 AND k.key = ?2;

-- name: key_rest
-- What nearly no row has.
SELECT k.key, k.park, k.skipped, k.kept, k.awaited, k.attempts, k.reason, k.parked_ms, k.due_ms,
  k.had
FROM json_each(?2) v CROSS JOIN oncebox_key k ON k.subscription = ?1 AND k.key = v.value;

-- name: add_keys add_key
INSERT INTO oncebox_key (subscription, key) VALUES (?, ?) ON CONFLICT DO NOTHING;

-- name: move_keys move_key
-- The common write: the event last done, and nothing else.
UPDATE oncebox_key SET sequence = ?3, stamp = ?4, id = ?5, digest = ?6
WHERE subscription = ?1 AND key = ?2;

-- name: write_key
UPDATE oncebox_key SET sequence = ?3, stamp = ?4, id = ?5, digest = ?6, cutoff = ?7, park = ?8,
  skipped = ?9, kept = ?10, awaited = ?11, attempts = ?12, reason = ?13, parked_ms = ?14,
  due_ms = ?15, had = ?16
WHERE subscription = ?1 AND key = ?2;

-- name: load_kept
-- The lowest ?1 events kept behind each of these keys, as many as have ?2 bytes; one at the least.
SELECT e.subscription, e.key, e.sequence, e.stamp, e.previous, e.id, e.digest, e.void, e.record
FROM json_each(?3) v
CROSS JOIN oncebox_kept e ON e.rowid IN (
  SELECT n FROM (
    SELECT n, sum(size) OVER (ORDER BY sequence, stamp
      ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before
    FROM (SELECT k.rowid AS n, k.sequence, k.stamp, length(k.record) AS size FROM oncebox_kept k
          WHERE k.subscription = v.value ->> 0 AND k.key = v.value ->> 1
          ORDER BY k.sequence, k.stamp LIMIT ?1))
  WHERE coalesce(before, 0) < ?2);

-- name: kept_near
-- What is kept at (sequence, stamp) of each of these keys, and all at the places before and behind.
SELECT e.subscription, e.key, e.sequence, e.stamp, e.previous, e.id, e.digest, e.void, NULL
FROM json_each(?1) v
CROSS JOIN oncebox_kept e ON e.rowid IN (
  SELECT k.rowid FROM oncebox_kept k
  WHERE k.subscription = v.value ->> 0 AND k.key = v.value ->> 1
    AND k.sequence = v.value ->> 2 AND k.stamp = v.value ->> 3
  UNION ALL SELECT k.rowid FROM oncebox_kept k
  WHERE k.subscription = v.value ->> 0 AND k.key = v.value ->> 1
    AND (k.sequence, k.stamp) = (
      SELECT p.sequence, p.stamp FROM oncebox_kept p
      WHERE p.subscription = v.value ->> 0 AND p.key = v.value ->> 1
        AND (p.sequence, p.stamp) < (v.value ->> 2, v.value ->> 3)
      ORDER BY p.sequence DESC, p.stamp DESC LIMIT 1)
  UNION ALL SELECT k.rowid FROM oncebox_kept k
  WHERE k.subscription = v.value ->> 0 AND k.key = v.value ->> 1
    AND (k.sequence, k.stamp) = (
      SELECT p.sequence, p.stamp FROM oncebox_kept p
      WHERE p.subscription = v.value ->> 0 AND p.key = v.value ->> 1
        AND (p.sequence, p.stamp) > (v.value ->> 2, v.value ->> 3)
      ORDER BY p.sequence, p.stamp LIMIT 1));

-- name: add_kept
INSERT INTO oncebox_kept (subscription, key, sequence, stamp, previous, id, digest, void,
  after_subscription, after_key, after_stamp, kept_ms, record)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO NOTHING;

-- name: drop_kept
DELETE FROM oncebox_kept WHERE subscription = ? AND key = ? AND sequence = ? AND stamp = ?
  AND id = ? AND digest = ? AND void = ?;

-- name: awaited
-- How far keys are that others wait for, where they are marked so.
SELECT k.subscription, k.key, k.stamp
FROM json_each(?1) v
CROSS JOIN oncebox_key k ON k.subscription = v.value ->> 0 AND k.key = v.value ->> 1
WHERE k.awaited;

-- name: waiters
-- Keys with an event that waited for one of these, which was at ->> 2 and is at ->> 3 now.
SELECT DISTINCT e.subscription, e.key
FROM json_each(?1) v
CROSS JOIN oncebox_kept e ON e.after_subscription = v.value ->> 0 AND e.after_key = v.value ->> 1
WHERE e.after_stamp > v.value ->> 2 AND e.after_stamp <= v.value ->> 3;

-- name: released_waiters
-- The same for a whole consumer: whoever died between a commit and its wake-ups is made good. Only
-- keys where the event is next, and so can go on: those with a gap would fill every page.
SELECT DISTINCT e.subscription, e.key
FROM oncebox_kept e
JOIN oncebox_subscription s ON s.id = e.subscription AND s.consumer = ?1
JOIN oncebox_key k ON k.subscription = e.subscription AND k.key = e.key AND k.park IS NULL
JOIN oncebox_key a ON a.subscription = e.after_subscription AND a.key = e.after_key
WHERE e.after_key IS NOT NULL AND a.stamp >= e.after_stamp
  AND CASE WHEN k.sequence >= 0
    THEN e.sequence = k.sequence + 1 AND coalesce(e.previous, -1) = k.stamp
    ELSE coalesce(e.previous, -1) < s.floor AND s.floor <= e.stamp END
LIMIT ?2;

-- name: take_due
-- Keys of ?1 whose time has come at ?2, at most ?3, to be gone on with. Each try counts before it
-- is made and the next one is put off (?5 ms, doubling up to ?6; none is left after ?4): so a
-- handler that kills its process spends its tries, and of two owners that look only one has it. A
-- time more than ?7 ms ahead was given before the clock was set back: it has come.
UPDATE oncebox_key SET attempts = attempts + 1, due_ms = CASE
  WHEN park IS NOT NULL AND attempts + 1 >= ?4 THEN NULL
  ELSE ?2 + min(?5 << min(attempts, 20), ?6) END
WHERE (subscription, key) IN (
  SELECT k.subscription, k.key
  FROM oncebox_key k INDEXED BY oncebox_key_due
    JOIN oncebox_subscription s ON s.id = k.subscription AND s.consumer = ?1
  WHERE k.due_ms IS NOT NULL AND (k.due_ms <= ?2 OR k.due_ms > ?2 + ?7)
  ORDER BY k.due_ms LIMIT ?3)
RETURNING subscription, key;

-- name: held
-- Asked often, so it reads only keys that wait: left alone, SQLite would read them all.
-- How much waits: keys parked, keys with a gap, events kept, bytes kept.
SELECT
  (SELECT count(*) FROM oncebox_key k INDEXED BY oncebox_key_held
      JOIN oncebox_subscription s ON s.id = k.subscription
    WHERE s.consumer = ?1 AND k.park IS NOT NULL),
  (SELECT count(*) FROM oncebox_key k INDEXED BY oncebox_key_held
      JOIN oncebox_subscription s ON s.id = k.subscription
    WHERE s.consumer = ?1 AND k.park IS NULL AND k.kept > 0),
  (SELECT count(*) FROM oncebox_kept e JOIN oncebox_subscription s ON s.id = e.subscription
    WHERE s.consumer = ?1),
  (SELECT coalesce(sum(length(e.record)), 0)
    FROM oncebox_kept e JOIN oncebox_subscription s ON s.id = e.subscription
    WHERE s.consumer = ?1);

-- name: note
INSERT INTO oncebox_journal (at_ms, what, consumer, source, key, sequence, stamp, id, detail)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: quarantine
-- Once each; at a place of a topic that was made anew, another record is another one.
INSERT INTO oncebox_quarantine (at_ms, consumer, topic, partition, "offset", reason, record)
SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7
WHERE NOT EXISTS (
  SELECT 1 FROM oncebox_quarantine
  WHERE consumer = ?2 AND topic = ?3 AND partition = ?4 AND "offset" = ?5 AND record = ?7);

-- name: effects
SELECT step, key, done_ms, result FROM oncebox_effect
WHERE consumer = ? AND source = ? AND id = ?;

-- name: intend
-- Rows: how often it was intended since anything was heard of it.
INSERT INTO oncebox_effect (consumer, source, id, step, key, begun_ms)
VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (consumer, source, id, step) DO UPDATE SET tries = tries + 1
RETURNING tries;

-- name: effect_lived
-- It failed, and did not take its process with it.
UPDATE oncebox_effect SET tries = 0 WHERE consumer = ? AND source = ? AND id = ? AND step = ?;

-- name: effect_done
-- The result that holds: of two owners that had the effect, the first's, which handlers have seen.
UPDATE oncebox_effect SET done_ms = coalesce(done_ms, ?5), result = coalesce(result, ?6)
WHERE consumer = ?1 AND source = ?2 AND id = ?3 AND step = ?4
RETURNING result;
