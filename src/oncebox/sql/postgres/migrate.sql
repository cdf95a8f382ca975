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

-- name: missing_rights
-- Rows: a right that this connection's role lacks in the schema $1, on what, and the role.
with needed(right_, on_, given) as (
  select 'usage', 'schema ' || n.nspname, has_schema_privilege(n.oid, 'usage')
  from pg_namespace n where n.nspname = $1
  union all
  select r, 'table ' || c.relname, has_table_privilege(c.oid, r)
  from pg_class c, unnest(array['select', 'insert', 'update', 'delete']) r
  where c.relnamespace = to_regnamespace($1) and c.relkind in ('r', 'p') and not c.relispartition
  union all
  select 'usage', 'sequence ' || c.relname,
    case when c.relkind = 'S' then has_sequence_privilege(c.oid, 'usage') end
  from pg_class c where c.relnamespace = to_regnamespace($1) and c.relkind = 'S'
    and not exists (select from pg_depend d where d.objid = c.oid and d.deptype = 'i')
  union all
  select 'execute', 'function ' || p.proname, has_function_privilege(p.oid, 'execute')
  from pg_proc p where p.pronamespace = to_regnamespace($1)
)
select right_, on_, current_user::text from needed where not given order by on_, right_;

-- name: lacking_rights
-- Of the rights $2 on things of kinds $3 with names $4, and usage of schema $1: those that this
-- connection's role lacks.
select 'usage', 'schema ' || $1::text where not has_schema_privilege($1::text, 'usage')
union all
select distinct w.right_, w.kind || ' ' || w.what
from unnest($2::text[], $3::text[], $4::text[]) as w (right_, kind, what)
where has_schema_privilege($1::text, 'usage') and not case w.kind
  when 'table' then has_table_privilege(w.what, w.right_)
  when 'sequence' then has_sequence_privilege(w.what, w.right_)
  else has_function_privilege(w.what, w.right_) end
order by 2, 1;

-- name: server
-- The server's clock (Unix seconds); the isolation of this transaction; how many connections it
-- gives to others than superusers, and how many are taken; the bounds of this role and database
-- (-1: none); the role.
select extract(epoch from clock_timestamp())::double precision,
  current_setting('transaction_isolation'),
  current_setting('max_connections')::int
    - current_setting('superuser_reserved_connections')::int
    - coalesce(current_setting('reserved_connections', true)::int, 0),
  (select count(*) from pg_stat_activity where backend_type = 'client backend')::int,
  (select rolconnlimit from pg_roles where rolname = current_user),
  (select datconnlimit from pg_database where datname = current_database()),
  current_user::text;
