-- Least privilege in Postgres: a role for workers and operators, one for producers, one for who only looks.
-- What each is for, and what stands against whom: security.md.
--
--   psql -v ON_ERROR_STOP=1 "$DATABASE_URL" -f docs/roles.sql
--
-- Run it after `vcc migrate`, as the tables' owner, who has to be allowed to create roles the first time; and again
-- after each upgrade, which changes nothing else. The owner goes on migrating, and nobody else is the owner. These roles
-- can't log in: make each service a user of its own in one of them.
--
--   create role worker_1 login password '…' in role vcc_worker;
--   create role shop login password '…' in role vcc_producer;
--   create role board login password '…' in role vcc_viewer;

begin;

do $$
declare
    name text;
begin
    foreach name in array array['vcc_worker', 'vcc_producer', 'vcc_viewer'] loop
        if not exists (select from pg_roles where rolname = name) then
            execute format('create role %I nologin', name);
        end if;
    end loop;
    -- what everybody may in every database: make tables of their own for a session
    execute format('revoke temporary on database %I from public', current_database());
end $$;

revoke create on schema public from public;  -- as it is from Postgres 15 on
revoke all on all tables in schema public from vcc_worker, vcc_producer, vcc_viewer;
revoke all on all sequences in schema public from vcc_worker, vcc_producer, vcc_viewer;

grant usage on schema public to vcc_worker, vcc_producer, vcc_viewer;

-- Workers, beat, and operators at the command line: rows, and no table. Locking a row for a deletion is an update.
grant select, insert, update, delete on
    interactions, invocations, events, receipts, rejections, routes, providers to vcc_worker;
grant select, update on gate to vcc_worker;
grant select, delete on inbox to vcc_worker;
grant select, insert, update, delete on tallies, sessions, imports to vcc_worker;
grant select, insert, update on totals to vcc_worker;
grant select, update on tallied to vcc_worker;
grant select, insert on audit to vcc_worker; -- what was done stays on record
grant usage on sequence turns to vcc_worker;
grant select on alembic_version to vcc_worker;

-- Services that put jobs into the inbox: in, and nothing out.
grant insert (job) on inbox to vcc_producer;

-- Who looks: `vcc stats`, `list`, `show`, `rejections`, and dashboards. Nothing of what customers wrote: neither a job's
-- data, nor a rejected job, nor an answer of the API's, which may repeat either.
grant select (
    id, externalid, state, lane, rank, route, provider, bytes, dispatch_requestid, release_requestid, due_at, call, unsure,
    may_hold, attempts, cap, first_sent_at, last_error, reason, forgotten_at, created_at, dispatched_at,
    release_requested_at, released_at, updated_at
) on interactions to vcc_viewer;
grant select (id, provider, ids, releases, probe, started_at, seconds, status, outcome, error, bytes)
    on invocations to vcc_viewer;
grant select (id, at, door, place, reason) on rejections to vcc_viewer;
grant select (id, created_at) on inbox to vcc_viewer;
grant select on events, gate, routes, providers, tallies, totals, tallied, audit, imports, alembic_version to vcc_viewer;

commit;
