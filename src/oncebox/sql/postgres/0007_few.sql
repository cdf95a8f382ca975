-- The same numbers and checks for less: a transaction with a few events reads them by one query instead
-- of two (each is planned anew, since a plan for all partitions would lock all of them), and the
-- pattern of a source counts no letters, which took emit longer than all the rest.

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
    for pass in 1..2 loop
      for one in
        select e.n, s.id, s.low, e.key, coalesce(octet_length(e.data), 0) as size, e.after_stamp,
          c.known, count(*) filter (where c.known is null and e.key is not null) over () as unknown,
          count(*) filter (where s.id is null
                           or (e.after_key is not null and e.after_stamp is null)) over () as hard
        from oncebox.event e left join oncebox.source s on s.name = e.source
          left join lateral (  -- by `offset 0` a look-up of one row; a join may read all keys
            select true as known from oncebox.counter c
            where c.source_id = s.id and c.key = e.key offset 0) c on true
        where e.n between new.n and last and e.xid = pg_current_xact_id()
        order by s.id, e.key, e.n
      loop
        exit when one.hard > 0;
        if pass = 2 or one.unknown = 0 then
          perform oncebox.number_one(
            one.n, one.id, one.low, one.key, true, one.size, one.after_stamp);
        elsif one.known is null and one.key is not null then
          insert into oncebox.counter (source_id, key, sequence, stamp, position)
            values (one.id, one.key, 0, 0, 0) on conflict do nothing;
        end if;
      end loop;
      exit when one.hard > 0 or one.unknown = 0;
    end loop;
    if one.hard = 0 then
      perform set_config('oncebox.numbered', last::text, true);
      return null;
    end if;
  end if;
  perform oncebox.number_many(new.n);
  return null;
end $$;

-- Emit for triggers and for other languages, in the caller's transaction. Returns the event's id.
-- Nothing is written where the handler of a rebuild runs again: see the statement `quiet`.
create or replace function oncebox.emit(
  source text, type text, key text, data jsonb, version int default 1,
  after_source text default null, after_key text default null, attributes json default null
) returns uuid language plpgsql as $$
declare
  id          uuid  := oncebox.new_id();
  payload     bytea := convert_to(data::text, 'UTF8');
  source_form text  := '^(/[A-Za-z0-9][A-Za-z0-9._-]*){2,3}$';
  too_long    text  := '[^/]{201}';  -- asked only of what is long enough: counting is slow
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
  elsif current_setting('oncebox.quiet', true) = 'on' then
    return id;
  end if;
  insert into oncebox.event (source, id, key, type, version, data,
                             attributes, after_source, after_key)
    values (source, id, key, type, version, payload, attributes, after_source, after_key);
  return id;
end $$;
