-- Partitions belong to whoever made the tables, and only an owner may add and drop them. So a relay
-- whose role owns nothing has it done by this function, with its owner's rights; and nobody else
-- may call it, since whoever does says how long events are kept.
alter function oncebox.maintain(text, double precision, bigint, int)
  security definer set search_path = pg_catalog, pg_temp;
revoke all on function oncebox.maintain(text, double precision, bigint, int) from public;
