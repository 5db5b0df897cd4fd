-- Queues: giving rights on them to roles, by name.
-- Invariant: manage, which implies all, is given and taken only by who could become the owner.

CREATE FUNCTION underway_internal.check_grant(
        caller oid, q underway_internal.queue, role text, rights text[]) RETURNS bool LANGUAGE plpgsql AS $$
BEGIN
    PERFORM underway_internal.check_words(rights, 'rights', '{enqueue,work,see,manage}');
    IF coalesce(role, '') = '' THEN
        RAISE EXCEPTION USING ERRCODE = '22023',
            MESSAGE = format('role must not be %s', CASE WHEN role IS NULL THEN 'null' ELSE 'empty' END),
            HINT = 'Give the name of a role, or ''public'' for everybody.';
    ELSIF 'manage' = ANY (rights) AND NOT underway_internal.can_become(caller, q.owner) THEN
        RAISE EXCEPTION USING ERRCODE = '42501',
            MESSAGE = format('role "%s" cannot give or take the right manage on queue "%s"', pg_get_userbyid(caller), q.name),
            HINT = format('Only who can become its owner, "%s", may.', q.owner);
    END IF;
    RETURN true;
END $$;

CREATE FUNCTION underway_internal.grant_queue(caller oid, queue text, role text, rights text[])
    RETURNS bool LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    q underway_internal.queue := underway_internal.queue_for(caller, queue, 'manage');
BEGIN
    PERFORM underway_internal.check_grant(caller, q, role, rights);
    IF role <> 'public' AND underway_internal.role_oid(role) IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = '42704', MESSAGE = format('role "%s" does not exist', left(role, 100)),
            HINT = 'Give the name exactly as it is, without quotes; ''public'' means everybody.';
    END IF;
    INSERT INTO underway_internal.queue_grant SELECT DISTINCT q.id, role, r FROM unnest(rights) r ON CONFLICT DO NOTHING;
    RETURN FOUND;
END $$;

CREATE FUNCTION underway.grant_queue(queue text, role text, rights text[] DEFAULT '{enqueue}') RETURNS bool
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'underway_gateway';
COMMENT ON FUNCTION underway.grant_queue IS
'Gives a role, and its members, rights on a queue. Needs the right manage; to give manage, the ability to become the owner.
role: its exact name, or ''public'' for everybody. rights: enqueue (add tasks), work (take and finish tasks as an external worker), see (tasks with inputs, outputs and errors), manage (all of these; pause, purge, redrive, cancel, change numbers).
Returns false when the role had them all already. Errors: 42704 no such queue or role, 42501 not allowed, 22023 bad value.';

CREATE FUNCTION underway_internal.revoke_queue(caller oid, queue text, role text, rights text[])
    RETURNS bool LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    q underway_internal.queue := underway_internal.queue_for(caller, queue, 'manage');
BEGIN
    PERFORM underway_internal.check_grant(caller, q, role, rights);
    DELETE FROM underway_internal.queue_grant g WHERE g.queue_id = q.id AND g.role = role AND g."right" = ANY (rights);
    -- Rights of a role that is gone can be taken away; a misspelt name is told.
    IF NOT FOUND AND role <> 'public' AND underway_internal.role_oid(role) IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = '42704', MESSAGE = format('role "%s" does not exist', left(role, 100)),
            HINT = 'Give the name exactly as it is, without quotes; ''public'' means everybody.';
    END IF;
    RETURN FOUND;
END $$;

CREATE FUNCTION underway.revoke_queue(queue text, role text, rights text[] DEFAULT '{enqueue}') RETURNS bool
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'underway_gateway';
COMMENT ON FUNCTION underway.revoke_queue IS
'Takes rights away that grant_queue() gave; the owner''s own cannot be taken. Needs the right manage; to take manage, the ability to become the owner.
Returns false when the role had none of them by a grant of its own. Errors: 42704 no such queue or role, 42501 not allowed, 22023 bad value.';
