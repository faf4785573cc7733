-- After a restored backup, when the producers have sent again what they had sent since: see operations.md.
--
-- Rows that went back in time don't know that they were sent. A release that meets one of them ends it without a call,
-- though VCC may hold the interaction. This sends those releases, under the requestids that they have: VCC drops those
-- that it knows. It may be run again at any time, and changes nothing where nothing was spared.
--
--   psql "$DATABASE_URL" -v restored="$(cat restored.txt)" -f docs/restored.sql
\set ON_ERROR_STOP on
begin;

-- cancelled since, and nothing newer: where a dispatch has come after it, the release would end that one
update interactions c set state = 'releasing', due_at = now(), attempts = 0, reason = null, updated_at = clock_timestamp()
where state = 'cancelled' and release_requestid is not null and updated_at >= :'restored'
  and not exists (
    select from interactions n where n.externalid = c.externalid and (n.id > c.id
      or n.state in ('waiting', 'pending', 'dispatched', 'releasing')
      or (n.state = 'awaiting_dispatch' and n.dispatch_requestid is null))
  );

-- a release that comes from here on is sent too, be it that of a dispatch that had failed and was retried since
update interactions set may_hold = true where state in ('pending', 'failed') and not may_hold;

commit;

-- dispatches that came since and counted as duplicates: if the release that belongs before one of them was lost with
-- the database, and came again too late, that dispatch has to be sent again, under a fresh requestid
select i.externalid, e.at, e.detail from events e join interactions i on i.id = e.interaction_id
where e.event = 'duplicate' and e.at >= :'restored' order by e.id;
