-- name: has_tables
SELECT 1 FROM sqlite_master WHERE name = 'oncebox_log_format';

-- name: format
SELECT version FROM oncebox_log_format;

-- name: describe
SELECT t.identity, count(*)
FROM oncebox_log_topic t JOIN oncebox_log_partition p ON p.topic = t.id
WHERE t.name = ? GROUP BY t.id;

-- name: add_topic
INSERT INTO oncebox_log_topic (name, identity, retention_ms, retention_bytes)
VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING;

-- name: add_partition
INSERT INTO oncebox_log_partition (topic, number)
SELECT id, ?2 FROM oncebox_log_topic WHERE name = ?1;

-- name: retain
UPDATE oncebox_log_topic SET retention_ms = ?2, retention_bytes = ?3 WHERE name = ?1;

-- name: drop_partitions
DELETE FROM oncebox_log_partition
WHERE topic IN (SELECT id FROM oncebox_log_topic WHERE name = ?);

-- name: drop_topic
DELETE FROM oncebox_log_topic WHERE name = ?;

-- name: partitions
SELECT p.id, p.start, p.next, p.bytes, p.time_max, t.retention_ms, t.retention_bytes
FROM oncebox_log_topic t JOIN oncebox_log_partition p ON p.topic = t.id
WHERE t.name = ? ORDER BY p.number;

-- name: partition_id
SELECT p.id FROM oncebox_log_partition p JOIN oncebox_log_topic t ON t.id = p.topic
WHERE t.name = ? AND p.number = ?;

-- name: add_block
INSERT INTO oncebox_log_block VALUES (?, ?, ?, ?, ?, ?, ?);

-- name: set_end
UPDATE oncebox_log_partition SET next = ?2, bytes = ?3, time_max = ?4 WHERE id = ?1;

-- name: set_start
UPDATE oncebox_log_partition SET start = ?2, bytes = bytes - ?3 WHERE id = ?1;

-- name: blocks_from
-- From the block that holds the offset on.
SELECT base, data FROM oncebox_log_block
WHERE partition = ?1 AND base >= coalesce(
  (SELECT max(base) FROM oncebox_log_block WHERE partition = ?1 AND base <= ?2), ?2)
ORDER BY base;

-- name: block_at
SELECT base, count, time_max FROM oncebox_log_block
WHERE partition = ? AND base <= ? ORDER BY base DESC LIMIT 1;

-- name: oldest_blocks
-- Blocks that end at the offset or before it.
SELECT base, base + count, bytes, written_ms FROM oncebox_log_block
WHERE partition = ?1 AND base < ?2 AND base + count <= ?2 ORDER BY base LIMIT ?3;

-- name: delete_blocks
DELETE FROM oncebox_log_block WHERE partition = ? AND base <= ?;
