-- Emit for less: its pattern of a source counted letters, which took longer than all the rest.

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
