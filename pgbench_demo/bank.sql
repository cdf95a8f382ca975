-- What the demo adds to pgbench's tables: the balances that each row went through, written by
-- triggers in pgbench's own transactions. A trigger draws `n` while it holds the row, until its
-- transaction ends; so along a row, `n` rises in the order of commits. Nothing here is oncebox's.
create table audited (
  n       bigint generated always as identity,
  kind    text   not null,
  id      int    not null,
  balance bigint not null
);

create function audit_account() returns trigger language plpgsql as $$
begin
  insert into audited (kind, id, balance) values ('account', new.aid, new.abalance);
  return null;
end $$;

create function audit_teller() returns trigger language plpgsql as $$
begin
  insert into audited (kind, id, balance) values ('teller', new.tid, new.tbalance);
  return null;
end $$;

create function audit_branch() returns trigger language plpgsql as $$
begin
  insert into audited (kind, id, balance) values ('branch', new.bid, new.bbalance);
  return null;
end $$;

create trigger audit after update on pgbench_accounts
  for each row execute function audit_account();
create trigger audit after update on pgbench_tellers
  for each row execute function audit_teller();
create trigger audit after update on pgbench_branches
  for each row execute function audit_branch();
