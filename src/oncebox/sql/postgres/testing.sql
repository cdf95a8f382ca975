-- name: emitted
-- What was emitted, in order of the emits; events of open transactions only for themselves.
select e.id::text, e.source, e.type, e.version, e.key, e.data, e.content_type
from oncebox.event e
order by e.n;
