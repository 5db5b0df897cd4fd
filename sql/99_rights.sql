-- Who may use what: last, so that it covers everything. Default privileges of the installing role are undone too.
-- Invariant: nothing in underway_internal can be named by anybody but the owner (no USAGE on it); of underway, exactly what is
-- listed here is for PUBLIC. A public function that is forgotten here can be called by nobody, and tests find that out.

DO $$
DECLARE
    given record;
BEGIN
    -- acldefault() stands for what PUBLIC has on new functions and types without a word.
    FOR given IN
        SELECT format('SCHEMA %I', n.nspname) AS object, n.nspowner AS owner, a.grantee
            FROM pg_catalog.pg_namespace n, pg_catalog.aclexplode(n.nspacl) a
            WHERE n.nspname IN ('underway', 'underway_internal')
        UNION SELECT format('%s %s', CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, c.oid::regclass),
                c.relowner, a.grantee
            FROM pg_catalog.pg_class c, pg_catalog.aclexplode(c.relacl) a
            WHERE c.relnamespace IN ('underway'::regnamespace, 'underway_internal'::regnamespace)
        UNION SELECT format('ROUTINE %s', p.oid::regprocedure), p.proowner, a.grantee
            FROM pg_catalog.pg_proc p,
                pg_catalog.aclexplode(coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner))) a
            WHERE p.pronamespace IN ('underway'::regnamespace, 'underway_internal'::regnamespace)
        UNION SELECT format('TYPE %s', t.oid::regtype), t.typowner, a.grantee
            FROM pg_catalog.pg_type t,
                pg_catalog.aclexplode(coalesce(t.typacl, pg_catalog.acldefault('T', t.typowner))) a
            WHERE t.typnamespace IN ('underway'::regnamespace, 'underway_internal'::regnamespace) AND t.typelem = 0
              AND (t.typtype <> 'c' OR (SELECT c.relkind = 'c' FROM pg_catalog.pg_class c WHERE c.oid = t.typrelid))
    LOOP
        IF given.grantee <> given.owner THEN
            EXECUTE format('REVOKE ALL ON %s FROM %s', given.object,
                CASE given.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(given.grantee)) END);
        END IF;
    END LOOP;
END $$;

GRANT USAGE ON SCHEMA underway TO PUBLIC;

GRANT SELECT ON underway.queues, underway.tasks, underway.attempts, underway.workers, underway.workflows, underway.runs
    TO PUBLIC;

-- Views run functions with their reader's rights. Nobody else can name these. Four tell nothing that is not public; the view queues
-- shows the counts of those queues only that its reader may see.
GRANT EXECUTE ON FUNCTION underway_internal.clock, underway_internal.system_identifier, underway_internal.workers,
    underway_internal.is_enabled, underway_internal.count_tasks(int) TO PUBLIC;

GRANT USAGE ON TYPE underway.transition TO PUBLIC;

GRANT EXECUTE ON FUNCTION
    -- queues
    underway.create_queue, underway.alter_queue, underway.drop_queue, underway.pause_queue, underway.resume_queue,
    underway.purge_queue, underway.redrive, underway.grant_queue, underway.revoke_queue, underway.retry_policy,
    -- tasks
    underway.enqueue, underway.enqueue_many, underway.status, underway.cancel, underway.retry, underway.pause, underway.resume,
    underway.why, underway.await,
    -- external workers
    underway.dequeue, underway.lock_task, underway.heartbeat, underway.heartbeat_many, underway.complete, underway.complete_many,
    underway.fail, underway.snooze, underway.release,
    -- in a handler
    underway.task_id, underway.attempt, underway.last_attempt, underway.headers, underway.progress, underway.again,
    underway.give_up, underway.next, underway.go_to, underway.finish, underway.run_id, underway.run_input, underway.step_output,
    underway.step_outputs,
    -- workflows
    underway.step, underway.map, underway.wait, underway.sleep, underway.child, underway.finally,
    underway.create_workflow, underway.drop_workflow, underway.explain_workflow,
    -- runs of workflows
    underway.start, underway.history, underway.signal, underway.fork, underway.find_run,
    -- operation
    underway.adopt, underway.check_health, underway.version,
    -- tests
    underway.run_inline
TO PUBLIC;

GRANT EXECUTE ON PROCEDURE underway.wait_for, underway.wait_for_work TO PUBLIC;
