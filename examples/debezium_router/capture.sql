-- For Debezium's outbox event router: each event of oncebox as one row with all that its record's
-- headers say, written when it gets its number, and deleted at once. The database's log has it; the
-- table stays empty. Run it after `oncebox db migrate`, as the owner of oncebox's tables.

create table oncebox.captured (
  id           uuid primary key,
  specversion  text not null default '1.0',
  stream       text not null,                -- the topic
  source       text not null,
  type         text not null,
  dataschema   text,
  key          text,
  chain        text,                         -- sequence:stamp:previous
  after        text,                         -- stamp:source:key
  void         text,
  content_type text not null,
  traceparent  text,
  data         bytea
);

create function oncebox.capture() returns trigger language plpgsql as $$
declare
  e oncebox.event;
begin
  select * into strict e from oncebox.event where n = new.n;
  insert into oncebox.captured
      (id, stream, source, type, dataschema, key, chain, after, void, content_type, traceparent, data)
    values (
      e.id, regexp_replace(e.source, '^.*/', ''), e.source, e.type,
      'oncebox:' || e.type || '/' || e.version, e.key,
      new.sequence || ':' || new.stamp || ':' || coalesce(new.previous::text, ''),
      new.after_stamp || ':' || e.after_source || ':' || e.after_key,
      case when e.data is null then '1' end,
      coalesce(e.content_type, 'application/json'), e.attributes ->> 'traceparent', e.data);
  delete from oncebox.captured where id = e.id;
  return null;
end $$;

create trigger capture after insert on oncebox.chain
  for each row execute function oncebox.capture();
alter table oncebox.chain enable always trigger capture;  -- as oncebox.event's own trigger

create publication oncebox_captured for table oncebox.captured with (publish = 'insert');
