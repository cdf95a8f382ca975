-- For both dialects: `oncebox.` becomes a prefix on SQLite, and $1 becomes ?1.

-- name: lock
update oncebox.state set changes = changes + 1 returning changes;

-- name: take_id
update oncebox.state set next_id = next_id + 1 returning next_id - 1;

-- name: raise_id
update oncebox.state set next_id = $1 where next_id < $1;

-- name: subjects
select subject, min(deleted) from oncebox.version
where substr(subject, 1, length($1)) = $1 group by subject order by subject;

-- name: versions
select version, schema, deleted from oncebox.version where subject = $1 order by version;

-- name: everything
select v.subject, v.version, v.deleted, s.id, s.guid, s.format, s.body, s.refs, s.more
from oncebox.version v join oncebox.schema s on s.id = v.schema
where substr(v.subject, 1, length($1)) = $1 order by v.subject, v.version;

-- name: bodies
select v.subject, v.version, v.deleted, s.id, s.guid, s.format, s.body, s.refs, s.more
from oncebox.version v join oncebox.schema s on s.id = v.schema
where v.subject = $1 order by v.version;

-- name: body
select v.subject, v.version, v.deleted, s.id, s.guid, s.format, s.body, s.refs, s.more
from oncebox.version v join oncebox.schema s on s.id = v.schema
where v.subject = $1 and v.version = $2;

-- name: by_id
select '', 0, 0, id, guid, format, body, refs, more
from oncebox.schema where id = $1 and body is not null;

-- name: by_guid
select '', 0, 0, id, guid, format, body, refs, more
from oncebox.schema where guid = $1 and body is not null order by id;

-- name: by_digest
select id from oncebox.schema where digest = $1;

-- name: digest_of
select digest from oncebox.schema where id = $1;

-- name: uses
select subject, version, deleted from oncebox.version where schema = $1 order by subject, version;

-- name: add_schema
insert into oncebox.schema (id, digest, guid, format, body, refs, more)
values ($1, $2, $3, $4, $5, $6, $7)
on conflict (id) do update set body = excluded.body;

-- name: add_reference
insert into oncebox.reference (subject, version, schema) values ($1, $2, $3) on conflict do nothing;

-- name: add_version
insert into oncebox.version (subject, version, schema) values ($1, $2, $3);

-- name: referrers
select distinct r.schema from oncebox.reference r join oncebox.version v on v.schema = r.schema
where r.subject = $1 and r.version = $2 and v.deleted <= $3 order by r.schema;

-- name: soft_delete
update oncebox.version set deleted = 1 where subject = $1 and version = $2;

-- name: hard_delete
delete from oncebox.version where subject = $1 and version = $2;

-- name: forget_references
delete from oncebox.reference where schema = $1
and not exists (select 1 from oncebox.version v where v.schema = $1);

-- name: forget_body
update oncebox.schema set body = null where id = $1
and not exists (select 1 from oncebox.version v where v.schema = $1);

-- name: settings
select name, value from oncebox.setting where subject = $1;

-- name: set
insert into oncebox.setting (subject, name, value) values ($1, $2, $3)
on conflict (subject, name) do update set value = excluded.value;

-- name: unset
delete from oncebox.setting where subject = $1 and name = $2;
