-- name: has_tables
SELECT 1 FROM sqlite_master WHERE name = 'oncebox_log_format';

-- name: format
SELECT version FROM oncebox_log_format;

-- name: describe
SELECT t.identity, count(*)
FROM oncebox_log_topic t JOIN oncebox_log_partition p ON p.topic = t.id
WHERE t.name = ? GROUP BY t.id;

-- name: add_topic
INSERT INTO oncebox_log_topic (name, identity, retention_ms)
VALUES (?, ?, ?) ON CONFLICT DO NOTHING;

-- name: add_partition
INSERT INTO oncebox_log_partition (topic, number)
SELECT id, ?2 FROM oncebox_log_topic WHERE name = ?1;

-- name: retain
UPDATE oncebox_log_topic SET retention_ms = ?2 WHERE name = ?1;

-- name: drop_partitions
DELETE FROM oncebox_log_partition
WHERE topic IN (SELECT id FROM oncebox_log_topic WHERE name = ?);

-- name: drop_topic
DELETE FROM oncebox_log_topic WHERE name = ?;

-- name: partitions
SELECT p.id, p.start, p.next, p.time_ms, t.retention_ms
FROM oncebox_log_topic t JOIN oncebox_log_partition p ON p.topic = t.id
WHERE t.name = ? ORDER BY p.number;

-- name: partition
-- Only if it is still the one of that id, where one is given.
SELECT p.id, p.start, p.next FROM oncebox_log_partition p JOIN oncebox_log_topic t ON t.id = p.topic
WHERE t.name = ?1 AND p.number = ?2 AND p.id = coalesce(?3, p.id);

-- name: add_record
INSERT INTO oncebox_log_record VALUES (?, ?, ?, ?, ?, ?);

-- name: set_end
UPDATE oncebox_log_partition SET next = ?2, time_ms = ?3 WHERE id = ?1;

-- name: set_start
UPDATE oncebox_log_partition SET start = ?2 WHERE id = ?1;

-- name: records
SELECT id, time_ms, key, value, headers FROM oncebox_log_record
WHERE id >= ? AND id < ? ORDER BY id;

-- name: time_at
SELECT time_ms FROM oncebox_log_record WHERE id = ?;

-- name: written_at
SELECT written_ms FROM oncebox_log_record WHERE id = ?;

-- name: delete_records
DELETE FROM oncebox_log_record WHERE id >= ? AND id < ?;
