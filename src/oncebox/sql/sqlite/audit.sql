-- What the audit reads beside what others read: pages in order, and nothing is locked.

-- name: audit_extent
-- The stamp of the oldest event, or 0 where retention has dropped none, and the last position.
-- Retention leaves the newest: where nothing is left, it was not retention.
SELECT CASE WHEN coalesce(min(n), 1) = 1 THEN 0 ELSE (SELECT stamp FROM oncebox_event ORDER BY n LIMIT 1) END,
  max(n)
FROM oncebox_event;

-- name: audit_counters
-- A page of ?3 counters of the source ?1 behind the key ?2.
SELECT key, sequence, stamp FROM oncebox_counter
WHERE source = ?1 AND key > ?2 ORDER BY key LIMIT ?3;

-- name: audit_keys
-- A page of ?3 keys of subscription ?1 behind the key ?2.
SELECT key, sequence, stamp, id, digest, cutoff, park, skipped, kept FROM oncebox_key
WHERE subscription = ?1 AND key > ?2 ORDER BY key LIMIT ?3;

-- name: audit_kept
-- What is kept of the key ?2 of subscription ?1.
SELECT sequence, stamp, previous, id, digest, void FROM oncebox_kept
WHERE subscription = ?1 AND key = ?2 ORDER BY sequence, stamp;
