-- What the audit reads beside what others read: pages in order, and nothing is locked.

-- name: audit_store
-- The same for all who come to this file.
SELECT file FROM pragma_database_list WHERE name = 'main';

-- name: audit_extent
-- The stamp of the oldest event, or 0 where retention has dropped none, and the last position.
-- Retention leaves the newest: where nothing is left, it was not retention.
SELECT CASE WHEN coalesce(min(n), 1) = 1 THEN 0 ELSE (SELECT stamp FROM oncebox_event ORDER BY n LIMIT 1) END,
  max(n)
FROM oncebox_event;

-- name: audit_since
-- Behind which position all events from stamp ?1 on are.
SELECT coalesce(min(n) - 1, (SELECT max(n) FROM oncebox_event), 0) FROM oncebox_event WHERE stamp >= ?1;

-- name: audit_counters
-- A page of ?3 counters of the source ?1 behind the key ?2.
SELECT key, sequence, stamp, n FROM oncebox_counter
WHERE source = ?1 AND key > ?2 ORDER BY key LIMIT ?3;

-- name: audit_keys
-- A page of ?3 keys of subscription ?1 behind the key ?2.
-- At last, why its payload cannot be read, if that is what it waits for.
SELECT key, sequence, stamp, id, digest, cutoff, park, skipped, kept,
  CASE WHEN park = 'poison' AND kept > 0
    AND (reason LIKE 'DecodeFailed:%' OR reason LIKE 'UnknownSchema:%') THEN reason END
FROM oncebox_key WHERE subscription = ?1 AND key > ?2 ORDER BY key LIMIT ?3;

-- name: audit_kept
-- What is kept of the key ?2 of subscription ?1.
SELECT sequence, stamp, previous, id, digest, void FROM oncebox_kept
WHERE subscription = ?1 AND key = ?2 ORDER BY sequence, stamp;

-- name: audit_window audit_sums
-- SQLite has no hash that is the log's too: here nothing is added up.
SELECT NULL WHERE 0;

-- name: audit_ids
-- Events at positions above ?1 whose id another one has, by source and id: of ?2 ids at most.
SELECT source, id, key, sequence, stamp, n FROM oncebox_event
WHERE id IN (SELECT id FROM oncebox_event WHERE n > ?1 GROUP BY id HAVING count(*) > 1 LIMIT ?2)
ORDER BY source, id, n;

-- name: audit_rows
-- Of the events above position ?1, at most ?2, of at most ?3 bytes together but for a first one: those of
-- the keys in the JSON array ?4 (null: all), without a key, below their source's stamp in the JSON
-- object ?5, or from stamp ?6 or position ?7 on. The last one always, so that it is seen how far this is.
WITH batch AS (
  SELECT n FROM (
    SELECT n, coalesce(length(data), 0) AS size,
      sum(coalesce(length(data), 0)) OVER (ORDER BY n ROWS UNBOUNDED PRECEDING) AS total
    FROM (SELECT n, data FROM oncebox_event WHERE n > ?1 ORDER BY n LIMIT ?2)
  ) WHERE total <= ?3 OR total = size
)
SELECT e.n, e.source, e.key, e.sequence, e.stamp, e.previous, e.id, e.type,
  coalesce(e.version, '') || ' ' || coalesce(nullif(e.content_type, 'application/json'), '')
    || coalesce(' ' || e.after_stamp || ':' || e.after_source || ':' || e.after_key, ''),
  CAST(e.data AS BLOB)
FROM batch b JOIN oncebox_event e ON e.n = b.n
WHERE ?4 IS NULL OR e.sequence IS NULL OR e.stamp >= ?6 OR e.n >= ?7
  OR e.key IN (SELECT value FROM json_each(?4))
  OR e.stamp < (SELECT value FROM json_each(?5) WHERE json_each.key = e.source)
  OR e.n = (SELECT max(n) FROM batch)
ORDER BY e.n;
