-- name: begin_migration
-- One migration at a time; nothing waits longer than $1 ms for a lock.
select set_config('lock_timeout', $1::text, true),
       pg_advisory_xact_lock(hashtext('oncebox.migration'));

-- name: has_migrations
select to_regclass('oncebox.migration') is not null;

-- name: has_schema
select exists (select from pg_namespace where nspname = $1);

-- name: make_migrations
create table oncebox.migration (
  version    int         primary key,
  name       text        not null,
  applied_at timestamptz not null default now()
);

-- name: migrated
-- Unix seconds.
select version, extract(epoch from applied_at)::double precision
from oncebox.migration order by version;

-- name: add_migration
insert into oncebox.migration (version, name) values ($1, $2);
