-- The same numbers for less: a transaction with a few events has them numbered one by one, in the
-- order in which number_many makes and locks keys; and emit makes its id without a query.

-- Numbers one event; its key is locked by that. `low`: of its source. `known`: whether the key has a
-- counter. The position of a known key is drawn once its row is locked. Where two make a key at once,
-- one has drawn in vain: a hole, which the relay waits out.
create function oncebox.number_one(
  n bigint, source_id int, low bigint, key text, known boolean, size int, after bigint
) returns void language plpgsql as $$
#variable_conflict use_column
declare
  random_bits int    := (random() * 1023)::int;
  clock       bigint := (date_part('epoch', clock_timestamp()) * 1e6)::bigint * 1024 + random_bits;
begin
  if number_one.key is null then
    insert into oncebox.chain (position, n, stamp, source_id, size, after_stamp)
      values (nextval('oncebox.chain_position'), number_one.n, clock, number_one.source_id,
              number_one.size, after);
    return;
  end if;
  with moved as (
    insert into oncebox.counter as c (source_id, key, sequence, stamp, position)
      values (number_one.source_id, number_one.key, 1, greatest(clock, (low | 1023) + 1 + random_bits),
              case when known then 0 else nextval('oncebox.chain_position') end)
    on conflict (source_id, key) do update
      set sequence = c.sequence + 1, previous = nullif(c.stamp, 0), before = nullif(c.position, 0),
          position = nextval('oncebox.chain_position'),
          stamp = greatest(excluded.stamp, (c.stamp | 1023) + 1 + random_bits)
    returning c.*
  )
  insert into oncebox.chain
      (position, n, stamp, source_id, size, sequence, previous, before, after_stamp)
    select m.position, number_one.n, m.stamp, m.source_id, number_one.size, m.sequence,
           m.previous, m.before, after
    from moved m;
end $$;

-- Fires at commit, once for each event. The first firing numbers all of the transaction's events.
create or replace function oncebox.number() returns trigger language plpgsql as $$
declare
  few   constant int := 32;
  last  bigint;
  after bigint := new.after_stamp;
  one   record;
begin
  if new.n <= coalesce(nullif(current_setting('oncebox.numbered', true), ''), '0')::bigint
     or new.xid <> pg_current_xact_id()  -- a row copied by a restore has its place
     or not oncebox.has_drawn(new.n) then  -- also one that is copied by a transaction of its id
    return null;
  end if;

  last := currval('oncebox.event_n');
  if new.n = last then
    if new.after_key is not null and after is null then
      after := oncebox.last_stamp(new.after_source, new.after_key);
    end if;
    select s.id, s.low, c.key is not null as known into one
      from oncebox.source s left join oncebox.counter c on c.source_id = s.id and c.key = new.key
      where s.name = new.source;
    if found then
      perform oncebox.number_one(
        new.n, one.id, one.low, new.key, one.known, coalesce(octet_length(new.data), 0), after);
      return null;
    end if;
  elsif last - new.n < few then
    -- As number_many: new keys are made before any is locked, each in sorted order.
    insert into oncebox.counter (source_id, key, sequence, stamp, position)
      select distinct s.id, e.key, 0, 0, 0
      from oncebox.event e join oncebox.source s on s.name = e.source
      where e.n between new.n and last and e.xid = pg_current_xact_id() and e.key is not null
        and not exists (  -- by `offset 0` a look-up of one row; a join may read all keys of a source
          select from oncebox.counter c where c.source_id = s.id and c.key = e.key offset 0)
      order by s.id, e.key
      on conflict do nothing;
    for one in
      select e.n, s.id, s.low, e.key, coalesce(octet_length(e.data), 0) as size, e.after_stamp,
        count(*) filter (where s.id is null
                         or (e.after_key is not null and e.after_stamp is null)) over () as hard
      from oncebox.event e left join oncebox.source s on s.name = e.source
      where e.n between new.n and last and e.xid = pg_current_xact_id()
      order by s.id, e.key, e.n
    loop
      exit when one.hard > 0;
      perform oncebox.number_one(one.n, one.id, one.low, one.key, true, one.size, one.after_stamp);
    end loop;
    if one.hard = 0 then
      perform set_config('oncebox.numbered', last::text, true);
      return null;
    end if;
  end if;
  perform oncebox.number_many(new.n);
  return null;
end $$;

-- A UUIDv7 (RFC 9562, section 5.7), without a query.
create or replace function oncebox.new_id() returns uuid language plpgsql as $$
declare
  b bytea := overlay(uuid_send(gen_random_uuid()) placing substring(int8send(
    (date_part('epoch', clock_timestamp()) * 1000)::bigint) from 3) from 1 for 6);
begin
  return encode(set_byte(b, 6, get_byte(b, 6) & 15 | 112), 'hex')::uuid;
end $$;
