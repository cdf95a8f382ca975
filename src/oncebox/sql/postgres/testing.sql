-- name: emitted
-- What was emitted, in order of the emits; events of open transactions only for themselves.
select e.id::text, s.name, e.type, e.version, e.key, e.data
from oncebox.event e join oncebox.source s on s.id = e.source_id
order by e.n;
