-- A worker as a psql script, one task after the other: psql -qAt -f worker.sql
-- Ends when nothing has come for a second.
\set ON_ERROR_STOP on
\set QUIET on
\unset queue
CALL underway.wait_for_work('{letters}', '1 s') \gset
\if :{?queue}
    SELECT count(*) AS n, min(id::text) AS id, min(lease::text) AS lease, min(input ->> 'to') AS recipient
        FROM underway.dequeue('letters', worker => 'psql') \gset
    \if :n
        -- About once per heartbeat interval, in a transaction of its own; 'lost' and 'cancel' mean: stop.
        SELECT underway.heartbeat(:'lease', '{"at": "envelope"}') = 'ok' AS go_on, :'recipient' = 'nobody' AS unknown \gset
        \if :unknown
            SELECT underway.fail(:'lease', 'no such recipient', retryable => false);
        \elif :go_on
            BEGIN;
            SELECT underway.lock_task(:'lease');
            INSERT INTO sent VALUES (:'id', :'recipient', 'psql');
            SELECT underway.complete(:'lease', jsonb_build_object('sent', true));
            COMMIT;
        \else
            SELECT underway.release(:'lease');
        \endif
    \endif
    \ir worker.sql
\endif
