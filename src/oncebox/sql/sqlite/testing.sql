-- name: emitted
-- What was emitted, in order of the emits; events of open transactions only for themselves.
SELECT e.id, e.source, e.type, e.version, e.key, e.data, e.content_type
FROM oncebox_event e
ORDER BY e.n;
