-- Schemas by content. An id is never given again; `body` is null once it was deleted for good.
-- `digest`: SHA-256 of all the rest. `refs`, `more`: JSON (references; metadata and rules).
create table oncebox.schema (
  id     integer primary key,
  digest text    not null unique,
  guid   text    not null,
  format text    not null,
  body   text,
  refs   text    not null,
  more   text    not null
);

create index oncebox_schema_guid on oncebox.schema (guid);

create table oncebox.version (
  subject text    not null,
  version integer not null,
  schema  integer not null references oncebox.schema (id),
  deleted integer not null default 0,
  primary key (subject, version)
);

create index oncebox_version_schema on oncebox.version (schema);

-- Which schema refers to which version.
create table oncebox.reference (
  subject text    not null,
  version integer not null,
  schema  integer not null references oncebox.schema (id),
  primary key (subject, version, schema)
);

create index oncebox_reference_schema on oncebox.reference (schema);

-- compatibility, normalize, mode; the subject '' is for all.
create table oncebox.setting (
  subject text not null,
  name    text not null,
  value   text not null,
  primary key (subject, name)
);

-- One row: whoever changes anything locks it first, by counting.
create table oncebox.state (next_id integer not null, changes integer not null);

insert into oncebox.state values (1, 0);
