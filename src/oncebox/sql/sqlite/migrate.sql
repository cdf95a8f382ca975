-- name: begin_migration
-- BEGIN IMMEDIATE has the only lock there is; its wait (not ?1 ms) is the connection's.
select ?1;

-- name: has_migrations
select exists (select 1 from sqlite_master where name = 'oncebox_migration');

-- name: has_schema
select ?1 is not null;

-- name: make_migrations
create table oncebox_migration (
  version    integer primary key,
  name       text    not null,
  applied_at real    not null default ((julianday('now') - 2440587.5) * 86400)
);

-- name: migrated
-- Unix seconds.
select version, applied_at from oncebox_migration order by version;

-- name: add_migration
insert into oncebox_migration (version, name) values (?1, ?2);

-- name: missing_rights
-- None: whoever may open the file may do everything.
select 1 where ?1 is null;

-- name: lacking_rights
SELECT '', '' WHERE 0;

-- name: server
-- There is no server: its clock is ours, and nobody counts connections.
SELECT (julianday('now') - 2440587.5) * 86400.0, 'serializable', -1, 0, -1, -1, '';
