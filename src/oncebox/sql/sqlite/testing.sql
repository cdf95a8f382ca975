-- name: emitted
-- What was emitted, in order of the emits; events of open transactions only for themselves.
SELECT e.id, s.name, e.type, e.version, e.key, e.data
FROM oncebox_event e JOIN oncebox_source s ON s.id = e.source_id
ORDER BY e.n;
