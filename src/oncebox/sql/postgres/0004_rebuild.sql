-- Consumers that build their state anew: their handlers run again. Up to the stamp `had` of a key,
-- or of all keys of a source, what handlers emit and ask for by `once` was had the first time.
alter table oncebox.key add column had bigint not null default -1;
alter table oncebox.subscription add column had bigint not null default -1;

-- How far such a consumer has to read until it is where it was.
create table oncebox.rebuild (
  consumer  text   not null,
  topic     text   not null,
  partition int    not null,
  until     bigint not null,
  begun_ms  bigint not null,
  primary key (consumer, topic, partition)
);

-- Which events `accept` gave up: asked for at every gap of a key, so it must not cost a scan.
create index journal_key on oncebox.journal (consumer, source, key);
