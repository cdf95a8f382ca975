-- The producer's tables: who writes (source), what was emitted (event), and its place (chain).
-- An event is inserted when it is emitted and numbered when its transaction commits: so nobody
-- holds a key, or a new source, while he works, and they are locked in sorted order. Nothing is
-- marked per event: where a relay stands is one row of oncebox.cursor.

create table oncebox.source (
  id     int    generated always as identity primary key,
  name   text   collate "C" not null unique,  -- '/shop/orders'
  low    bigint not null default 0,       -- stamps to come are above it
  check (name ~ '^/[^/]+(/[^/]+)?/[^/]+$')
);

create sequence oncebox.event_n;

create table oncebox.event (
  n            bigint   not null default nextval('oncebox.event_n') primary key,
  xid          xid8     not null default pg_current_xact_id(),
  id           uuid     not null,
  source       text     collate "C" not null,
  version      smallint,
  type         text     not null,
  key          text     collate "C",       -- null: un-keyed
  data         bytea,                      -- null: void
  content_type text,                       -- null: application/json
  attributes   json,                       -- further attributes, such as traceparent
  after_source text,                       -- the event of another key that has to be first ...
  after_key    text     collate "C",
  after_stamp  bigint                      -- ... null: its key's last one here, found at commit
) partition by range (n);

-- The last event of each key. Its row is locked from numbering to commit, so the order of
-- numbers is the order of commits, and a rollback gives the number back.
create table oncebox.counter (
  source_id int    not null,
  sequence  bigint not null,
  stamp     bigint not null,
  previous  bigint,                        -- the stamp before `stamp`
  position  bigint not null,               -- in oncebox.chain
  before    bigint,                        -- the position before `position`
  key       text   collate "C" not null,
  primary key (source_id, key)
) with (fillfactor = 50);

-- Drawn while the key's counter is locked: along a key, positions rise as sequences do.
create sequence oncebox.chain_position;

create table oncebox.chain (
  position    bigint not null primary key,
  n           bigint not null,             -- in oncebox.event
  stamp       bigint not null,             -- microseconds since 1970 * 1024 + random bits
  sequence    bigint,                      -- null: un-keyed
  previous    bigint,
  before      bigint,
  after_stamp bigint,
  source_id   int    not null,
  size        int    not null              -- bytes of data
) partition by range (position);

-- Keys whose next event the log did not take: they wait, all others go on.
create table oncebox.refused (
  source    text    not null,
  key       text    collate "C",           -- null: the un-keyed event at `position`
  position  bigint  not null primary key,  -- the first event that is not published
  sequence  bigint,
  attempts  int     not null,
  permanent boolean not null,              -- trying again cannot help unless the log is changed
  retry_at  double precision not null,     -- Unix seconds
  reason    text    not null
);

-- Partitions of event and chain: made ahead and dropped by oncebox.maintain. The default ones
-- take what comes when nobody made any.
create table oncebox.partition (
  parent  text   not null,
  lower   bigint not null,
  upper   bigint not null,                 -- exclusive
  full_at timestamptz,                     -- seen full at this time
  primary key (parent, lower)
);
create table oncebox.event_default partition of oncebox.event default;
create table oncebox.chain_default partition of oncebox.chain default;

create function oncebox.add_partition(parent text, lower bigint, upper bigint) returns void
language plpgsql as $$
begin
  execute format('create table oncebox.%I (like oncebox.%I including all)',
                 parent || '_' || lower, parent);
  -- ATTACH, not PARTITION OF: emit goes on meanwhile.
  execute format('alter table oncebox.%I attach partition oncebox.%I for values from (%s) to (%s)',
                 parent, parent || '_' || lower, lower, upper);
  insert into oncebox.partition (parent, lower, upper) values (parent, lower, upper);
end $$;

select oncebox.add_partition('event', 0, 1000000), oncebox.add_partition('chain', 0, 1000000);

-- The stamp of the last event of a key, for `after`.
create function oncebox.last_stamp(source text, key text) returns bigint language plpgsql as $$
declare
  last bigint;
begin
  select c.stamp into last from oncebox.counter c
    where c.source_id = (select s.id from oncebox.source s where s.name = last_stamp.source)
      and c.key = last_stamp.key and c.sequence > 0;
  if last is null then
    raise foreign_key_violation using
      message = format('oncebox: after= names %s %s, which has no event here', source, key),
      hint = 'emit that event first, or give its stamp too';
  end if;
  return last;
end $$;

-- Numbers all events of this transaction from `first` on: sources are made, then keys are made or
-- locked, in sorted order, so that two transactions cannot deadlock; each key's events in the order of
-- their emits.
create function oncebox.number_many(first bigint) returns void
language plpgsql set plan_cache_mode = force_generic_plan as $$
declare
  last  bigint := currval('oncebox.event_n');
  clock bigint := (date_part('epoch', clock_timestamp()) * 1e6)::bigint * 1024;
begin
  perform set_config('oncebox.numbered', last::text, true);
  insert into oncebox.source (name)
    select distinct e.source from oncebox.event e
    where e.n between first and last and e.xid = pg_current_xact_id()
      and not exists (select from oncebox.source s where s.name = e.source)
    order by e.source
    on conflict do nothing;
  insert into oncebox.counter as c (source_id, key, sequence, stamp, position)
    select distinct s.id, e.key, 0, 0, 0
    from oncebox.event e join oncebox.source s on s.name = e.source
    where e.n between first and last and e.xid = pg_current_xact_id() and e.key is not null
    order by s.id, e.key
    on conflict on constraint counter_pkey do update set sequence = 0 where false;  -- locks only
  -- A new statement: it sees what those that we waited for have left.
  with mine as materialized (
    select e.n, s.id as source_id, s.low, e.source, e.key,
      e.after_source, e.after_key, e.after_stamp,
      coalesce(octet_length(e.data), 0) as size,
      row_number() over (partition by s.id, e.key order by e.n) as i,
      count(*) over (partition by s.id, e.key) as many
    from oncebox.event e join oncebox.source s on s.name = e.source
    where e.n between first and last and e.xid = pg_current_xact_id()
  ), placed as materialized (
    select o.*, nextval('oncebox.chain_position') as position,
      greatest(clock, (greatest(o.last_stamp, o.low) | 1023) + 1)
        + (o.i - 1) * 1024 + (random() * 1023)::bigint as stamp
    from (
      select m.*, coalesce(c.sequence, 0) as start,
        nullif(c.stamp, 0) as last_stamp, nullif(c.position, 0) as last_position
      from mine m left join oncebox.counter c on c.source_id = m.source_id and c.key = m.key
      order by m.n offset 0
    ) o
  ), linked as materialized (
    select p.*,
      coalesce(lag(p.stamp) over own, p.last_stamp) as previous,
      coalesce(lag(p.position) over own, p.last_position) as before
    from placed p window own as (partition by p.source_id, p.key order by p.n)
  ), moved as (
    update oncebox.counter c
    set sequence = l.start + l.many, stamp = l.stamp, previous = l.previous,
        position = l.position, before = l.before
    from linked l where l.i = l.many and c.source_id = l.source_id and c.key = l.key
  )
  insert into oncebox.chain
    (position, n, stamp, source_id, size, sequence, previous, before, after_stamp)
  select l.position, l.n, l.stamp, l.source_id, l.size,
    case when l.key is not null then l.start + l.i end,
    case when l.key is not null then l.previous end,
    case when l.key is not null then l.before end,
    case when l.after_key is null or l.after_stamp is not null then l.after_stamp
      else coalesce(
        -- an earlier event of this transaction, else the key's last one before it
        (select a.stamp from linked a
         where a.source = l.after_source and a.key = l.after_key and a.n < l.n
         order by a.n desc limit 1),
        (select a.last_stamp from linked a
         where a.source = l.after_source and a.key = l.after_key and a.i = 1),
        oncebox.last_stamp(l.after_source, l.after_key)) end
  from linked l;
end $$;

-- Numbers one event; its key is locked by that. False, and nothing is done, where its source is new.
-- The position is drawn once it is: who draws and then waits leaves holes behind a key that is hot.
create function oncebox.number_one(n bigint, source text, key text, size int, after bigint)
returns boolean language plpgsql as $$
#variable_conflict use_variable
declare
  clock bigint := (date_part('epoch', clock_timestamp()) * 1e6)::bigint * 1024
                  + (random() * 1023)::int;
  moved record;
begin
  if key is null then
    insert into oncebox.chain (position, n, stamp, source_id, size, after_stamp)
      select nextval('oncebox.chain_position'), n, clock, s.id, size, after
      from oncebox.source s where s.name = source;
    return found;
  end if;
  insert into oncebox.counter as c (source_id, key, sequence, stamp, position)
    select s.id, key, 1, greatest(clock, (s.low | 1023) + 1 + (clock & 1023)), 0
    from oncebox.source s where s.name = source
  on conflict on constraint counter_pkey do update
    set sequence = c.sequence + 1, previous = c.stamp, before = c.position,
        position = nextval('oncebox.chain_position'),
        stamp = greatest(excluded.stamp, (c.stamp | 1023) + 1 + (clock & 1023))
  returning c.* into moved;
  if moved.sequence = 1 then  -- a new key: written again, which is quicker than to look at each
    moved.position := nextval('oncebox.chain_position');
    update oncebox.counter c set position = moved.position
      where c.source_id = moved.source_id and c.key = number_one.key;
  end if;
  if moved.sequence is not null then
    insert into oncebox.chain
        (position, n, stamp, source_id, size, sequence, previous, before, after_stamp)
      values (moved.position, n, moved.stamp, moved.source_id, size, moved.sequence,
              moved.previous, moved.before, after);
  end if;
  return moved.sequence is not null;
end $$;

-- Numbers the events from `first` to `last` of this transaction one by one, which is quicker for a few;
-- in the order in which number_many makes and locks keys. False, and nothing is done, where they
-- include the first event of a source, or one that waits for the last event of another key. Its plan
-- is made once: it reads a table of which partitions come and go, where PostgreSQL would plan anew
-- each time, and take longer for that than for all the rest.
create function oncebox.number_few(first bigint, last bigint) returns boolean
language plpgsql set plan_cache_mode = force_generic_plan as $$
declare
  one record;
begin
  for one in
    select e.n, e.source, e.key, coalesce(octet_length(e.data), 0) as size, e.after_stamp,
      bool_or(s.id is null or (e.after_key is not null and e.after_stamp is null)) over () as hard
    from oncebox.event e left join oncebox.source s on s.name = e.source
    where e.n between first and last and e.xid = pg_current_xact_id()
    order by s.id, e.key, e.n
  loop
    if one.hard or not oncebox.number_one(one.n, one.source, one.key, one.size, one.after_stamp) then
      return false;
    end if;
  end loop;
  perform set_config('oncebox.numbered', last::text, true);
  return true;
end $$;

-- The last number that this session has drawn; 0: none.
create function oncebox.last_drawn() returns bigint language plpgsql as $$
begin
  return currval('oncebox.event_n');
exception when object_not_in_prerequisite_state then
  return 0;
end $$;

-- Fires at commit, once for each event. The first firing numbers all of the transaction's events: one
-- alone, a few one by one, or many at once. Each expression here costs every emit about a microsecond.
create function oncebox.number() returns trigger language plpgsql as $$
declare
  last bigint;
begin
  if new.n <= coalesce(nullif(current_setting('oncebox.numbered', true), ''), '0')::bigint
     or new.xid <> pg_current_xact_id() then  -- a row copied by a restore has its place
    return null;
  end if;

  last := oncebox.last_drawn();
  if new.n = last then
    if oncebox.number_one(
        new.n, new.source, new.key, coalesce(octet_length(new.data), 0),
        case when new.after_key is null or new.after_stamp is not null then new.after_stamp
        else oncebox.last_stamp(new.after_source, new.after_key) end) then
      return null;
    end if;
  elsif new.n > last  -- copied by a transaction of its id
        or (last - new.n < 32 and oncebox.number_few(new.n, last)) then
    return null;
  end if;
  perform oncebox.number_many(new.n);
  return null;
end $$;

create constraint trigger number after insert on oncebox.event
  deferrable initially deferred for each row execute function oncebox.number();

-- Also where session_replication_role is `replica`: what is emitted there would be committed, and
-- never numbered. Rows that a subscription or a restore copies are left as they are, see above.
-- `pg_restore --data-only --disable-triggers` leaves the trigger enabled for others only: run this
-- statement again after it.
alter table oncebox.event enable always trigger number;

-- A UUIDv7 (RFC 9562, section 5.7): milliseconds, the version, and random bits behind it, of which
-- those of the variant are right already. One expression, which becomes a part of the caller's.
create function oncebox.new_id() returns uuid language sql as $$
  select (lpad(to_hex((date_part('epoch', clock_timestamp()) * 1000)::bigint), 12, '0') || '7'
          || substr(gen_random_uuid()::text, 16))::uuid
$$;

-- Whether attributes can travel with an event: a JSON object of texts, by names that CloudEvents
-- allows and that oncebox does not give itself. As `read_attributes` in envelope.py.
create function oncebox.are_attributes(attributes json) returns boolean language sql immutable as $$
  select case when json_typeof(attributes) = 'object' then (
    select count(*) <= 32 and octet_length(attributes::text) <= 8192 and coalesce(bool_and(
      a.key ~ '^[a-z0-9]{1,20}$' and json_typeof(a.value) = 'string' and a.key <> all (array[
        'specversion', 'id', 'source', 'type', 'dataschema', 'chain', 'time', 'after', 'void',
        'datacontenttype', 'data', 'residue'])), true)
    from json_each(attributes) a) else false end
$$;

-- Emit for triggers and for other languages, in the caller's transaction. Returns the event's id.
-- Nothing is written where the handler of a rebuild runs again: see the statement `quiet`.
create function oncebox.emit(
  source text, type text, key text, data jsonb, version int default 1,
  after_source text default null, after_key text default null, attributes json default null
) returns uuid language plpgsql as $$
declare
  id      uuid  := oncebox.new_id();
  payload bytea := convert_to(data::text, 'UTF8');
begin
  -- Most events are short and plain: no more than this is asked of them.
  if (source ~ '^(/[A-Za-z0-9][A-Za-z0-9._-]*){2,3}$' and length(source) <= 200
      and type ~ '^[A-Za-z][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*$' and length(type) <= 200
      and version between 1 and 9999 and octet_length(key) between 1 and 1024
      and octet_length(payload) <= 200
      and after_source is null and after_key is null and attributes is null) is not true then
    declare
      source_form constant text := '^(/[A-Za-z0-9][A-Za-z0-9._-]*){2,3}$';
      too_long    constant text := '[^/]{201}';  -- asked only of what is long enough: it is slow
      wrong       text;
    begin
      wrong := case
        when (source ~ source_form) is not true
             or (length(source) > 200 and source ~ too_long) then
          'a source is /service/stream or /service/instance/stream, of letters, digits, ".", "_", "-"'
        when (type ~ '^[A-Za-z][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*$' and length(type) <= 200) is not true
          then 'a type is dotted words, 200 letters at most'
        when (version between 1 and 9999) is not true then 'a version is 1 to 9999'
        when key = '' or octet_length(key) > 1024 then
          'a key has 1 to 1024 bytes; null: the event has none'
        when payload is null then 'data is JSON, which SQL''s null is not'
        when octet_length(payload) > 8388608 then
          format('data has at most 8388608 bytes, not %s', octet_length(payload))
        when octet_length(payload) > 200 and jsonb_path_exists(data,
            'strict $.**{100 to last} ? (@.type() == "array" || @.type() == "object")') then
          'data has at most 100 levels'
        when (after_source is null) <> (after_key is null)
          or after_source !~ source_form or (length(after_source) > 200 and after_source ~ too_long)
          or after_key = '' or octet_length(after_key) > 1024 then
          'after_source and after_key name an event of another key, or both are null'
        when attributes is not null and not oncebox.are_attributes(attributes) then
          'attributes are a JSON object of up to 32 texts, 8192 bytes in all, under names of 1 to 20'
          ' lower-case letters and digits that are not oncebox''s own'
      end;
      if wrong is not null then
        raise check_violation using
          message = format('oncebox: event %s version %s of %s, key %s', left(type, 200), version,
                           left(source, 200), left(key, 40)),
          hint = wrong;
      end if;
    end;
  end if;
  if current_setting('oncebox.quiet', true) = 'on' then
    return id;
  end if;
  insert into oncebox.event (source, id, key, type, version, data,
                             attributes, after_source, after_key)
    values (source, id, key, type, version, payload, attributes, after_source, after_key);
  return id;
end $$;

-- The lowest position that some relay still needs; 0 while a service has no relay.
create function oncebox.needed() returns bigint language plpgsql stable as $$
begin
  return min(coalesce((c.position::json ->> 0)::bigint, 0))
    from (select distinct split_part(name, '/', 2) as service from oncebox.source) s
      left join oncebox.cursor c on c.reader = 'relay:' || s.service;
end $$;

-- Whether a relay needs a row of a partition: of chain, one from `needed` on; of event, one whose
-- place in the chain is from there on.
create function oncebox.in_use(part oncebox.partition, needed bigint) returns boolean
language plpgsql stable as $$
begin
  if part.parent = 'chain' then
    return part.upper > needed;
  end if;
  return exists (select from oncebox.chain c where c.position >= needed and c.n < part.upper);
end $$;

-- Keeps a partition of `parent` ('event' or 'chain') ahead, and drops the oldest one if it is past
-- retention and no relay needs it. Waits `wait_ms` at most for a lock, because emits wait behind
-- it. Returns what it did. Partitions belong to whoever made the tables, and only an owner may add and
-- drop them: so a relay whose role owns nothing has it done by this function, with its owner's rights;
-- and nobody else may call it, since whoever does says how long events are kept.
create function oncebox.maintain(
  parent text, retention_s double precision, rows bigint, wait_ms int
) returns text[] language plpgsql
security definer set search_path = pg_catalog, pg_temp as $$
declare
  relays bigint := oncebox.needed();
  done   text[] := '{}';
  last   bigint;
  top    bigint;
  old    oncebox.partition;
begin
  if not pg_try_advisory_xact_lock(hashtext('oncebox.maintain')) then
    return done;
  end if;
  perform set_config('lock_timeout', wait_ms || 'ms', true);
  last := case parent when 'event' then (select s.last_value from oncebox.event_n s)
                      else (select s.last_value from oncebox.chain_position s) end;
  update oncebox.partition p set full_at = clock_timestamp()
    where p.parent = maintain.parent and p.full_at is null and p.upper <= last;
  select max(p.upper) into top from oncebox.partition p where p.parent = maintain.parent;
  if top < last + rows then
    -- What came above all partitions is in the default one: the next begins well above it.
    top := case when top > last then top else last + rows / 10 + 1000 end;
    perform oncebox.add_partition(parent, top, top + rows);
    done := done || format('made %s_%s', parent, top);
  end if;

  select p.* into old from oncebox.partition p
    where p.parent = maintain.parent
      and p.full_at < clock_timestamp() - retention_s * interval '1 second'
    order by p.lower limit 1;
  if old is null or oncebox.in_use(old, relays) then
    return done;
  end if;
  execute format('lock table only oncebox.%I in access exclusive mode', parent);
  if oncebox.in_use(old, relays) then  -- now that nobody has an emit open
    return done;
  end if;
  execute format('drop table oncebox.%I', parent || '_' || old.lower);
  execute format('delete from oncebox.%I where %I < $1', parent || '_default',
                 case parent when 'event' then 'n' else 'position' end) using old.lower;
  delete from oncebox.partition p where p.parent = old.parent and p.lower = old.lower;
  return done || format('dropped %s_%s', parent, old.lower);
end $$;
revoke all on function oncebox.maintain(text, double precision, bigint, int) from public;
