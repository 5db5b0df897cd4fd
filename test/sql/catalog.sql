-- What the extension has put into the catalog, checked against its own rules; and the scripts that put it there.
\getenv tests PG_ABS_SRCDIR
\set helpers :tests '/sql/common/helpers.sql'
\set ECHO none
\i :helpers
\set ECHO all
\pset tuples_only on
CREATE VIEW ours AS SELECT oid AS schema FROM pg_namespace WHERE nspname IN ('underway', 'underway_internal');

-- No SECURITY DEFINER at all. What is not C and may be called by others has its search_path pinned.
SELECT oid::regprocedure FROM pg_proc WHERE pronamespace IN (SELECT schema FROM ours) AND prosecdef;
SELECT p.oid::regprocedure FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
    WHERE p.pronamespace = 'underway'::regnamespace AND l.lanname <> 'c'
        AND NOT coalesce(p.proconfig, '{}') @> '{"search_path=pg_catalog, pg_temp"}';

-- What PUBLIC has, and nobody but the owner has anything else.
SELECT format('schema %s: %s', n.nspname, string_agg(a.privilege_type, ', ' ORDER BY a.privilege_type))
    FROM pg_namespace n, aclexplode(n.nspacl) a WHERE n.oid IN (SELECT schema FROM ours) AND a.grantee = 0
    GROUP BY n.nspname;
SELECT format('%s: %s', c.oid::regclass, string_agg(a.privilege_type, ', ' ORDER BY a.privilege_type))
    FROM pg_class c, aclexplode(c.relacl) a
    WHERE c.relnamespace IN (SELECT schema FROM ours) AND a.grantee = 0 GROUP BY c.oid ORDER BY c.oid::regclass::text;
SELECT format('%s: %s', p.oid::regproc, string_agg(a.privilege_type, ', '))
    FROM pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
    WHERE p.pronamespace IN (SELECT schema FROM ours) AND a.grantee = 0 GROUP BY p.oid ORDER BY p.oid::regproc::text;
SELECT format('type %s: %s', t.oid::regtype, a.privilege_type)
    FROM pg_type t, aclexplode(coalesce(t.typacl, acldefault('T', t.typowner))) a
    WHERE t.typnamespace IN (SELECT schema FROM ours) AND a.grantee = 0 AND t.typelem = 0 AND (t.typtype <> 'c'
        OR EXISTS (SELECT FROM pg_class c WHERE c.oid = t.typrelid AND c.relkind = 'c')) ORDER BY t.oid::regtype::text;
SELECT 'granted to somebody else' FROM (SELECT nspacl AS acl, nspowner AS owner FROM pg_namespace
    WHERE oid IN (SELECT schema FROM ours)
    UNION ALL SELECT relacl, relowner FROM pg_class WHERE relnamespace IN (SELECT schema FROM ours) UNION ALL
        SELECT proacl, proowner FROM pg_proc WHERE pronamespace IN (SELECT schema FROM ours)) o,
    aclexplode(acl) a WHERE a.grantee NOT IN (0, owner);
-- Public functions that PUBLIC may not call: for superusers.
SELECT oid::regproc FROM pg_proc p WHERE pronamespace = 'underway'::regnamespace AND NOT EXISTS (SELECT
    FROM aclexplode(p.proacl) a WHERE a.grantee = 0) ORDER BY 1;
-- Default privileges of the one who installs it do not count.
\set regression :DBNAME
CREATE ROLE regress_default;
CREATE DATABASE regress_default;
\c regress_default
ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO regress_default;
ALTER DEFAULT PRIVILEGES GRANT ALL ON FUNCTIONS TO regress_default;
ALTER DEFAULT PRIVILEGES GRANT ALL ON SEQUENCES TO PUBLIC;
ALTER DEFAULT PRIVILEGES GRANT ALL ON SCHEMAS TO PUBLIC;
ALTER DEFAULT PRIVILEGES GRANT ALL ON TYPES TO regress_default;
CREATE EXTENSION underway;
SELECT has_schema_privilege('regress_default', 'underway_internal', 'USAGE'), has_schema_privilege('regress_default',
    'underway', 'CREATE'),
    has_table_privilege('regress_default', 'underway_internal.task', 'SELECT'),
        has_sequence_privilege('regress_default', 'underway_internal.queue_id', 'USAGE'),
    has_function_privilege('regress_default', 'underway.set_clock(timestamptz)', 'EXECUTE'),
        has_function_privilege('regress_default', 'underway_internal.new_id()', 'EXECUTE');
\c :regression
DROP DATABASE regress_default;
DROP ROLE regress_default;

-- A comment on everything that is public.
SELECT oid::regprocedure FROM pg_proc WHERE pronamespace = 'underway'::regnamespace
    AND coalesce(obj_description(oid, 'pg_proc'), '') = '';
SELECT oid::regclass FROM pg_class WHERE relnamespace = 'underway'::regnamespace AND relkind IN ('v', 'r', 'S')
    AND coalesce(obj_description(oid, 'pg_class'), '') = '';
SELECT oid::regtype FROM pg_type t WHERE typnamespace = 'underway'::regnamespace AND typelem = 0 AND (typtype <> 'c'
    OR EXISTS (SELECT FROM pg_class c WHERE c.oid = t.typrelid AND c.relkind = 'c'))
    AND coalesce(obj_description(oid, 'pg_type'), '') = '';
-- Errors that a comment names are told by SQLSTATE.
SELECT oid::regprocedure FROM pg_proc WHERE pronamespace = 'underway'::regnamespace
    AND obj_description(oid, 'pg_proc') ~ 'Errors:' AND obj_description(oid, 'pg_proc') !~ 'Errors: [0-9A-Z]{5} ';

-- One function per name; no argument named like a reserved word; nothing returns void; no function is called as ours is
-- in another schema of the system.
SELECT proname, count(*) FROM pg_proc WHERE pronamespace = 'underway'::regnamespace
    GROUP BY proname HAVING count(*) > 1;
SELECT p.oid::regproc, a FROM pg_proc p, unnest(p.proargnames) a JOIN pg_get_keywords() k ON k.word = a
    AND k.catcode = 'R' WHERE pronamespace = 'underway'::regnamespace;
SELECT oid::regprocedure FROM pg_proc WHERE pronamespace = 'underway'::regnamespace AND prorettype = 'void'::regtype
    AND prokind = 'f';
SELECT p.oid::regprocedure FROM pg_proc p WHERE pronamespace = 'underway'::regnamespace AND EXISTS (SELECT
    FROM unnest(p.proallargtypes || p.proargtypes::oid[]) t WHERE t = 'regclass'::regtype);
-- Composites at the surface are jsonb, states are text: no enum, no domain, no arrays of composites among arguments.
SELECT p.oid::regprocedure FROM pg_proc p, unnest(p.proargtypes) t JOIN pg_type y ON y.oid = t
    WHERE p.pronamespace = 'underway'::regnamespace
    AND (y.typtype <> 'b' OR EXISTS (SELECT FROM pg_type e WHERE e.oid = y.typelem AND e.typtype <> 'b'));

-- Every public function that is a gateway has its counterpart: the caller's oid, then the same arguments, and the same
-- result.
SELECT p.oid::regprocedure FROM pg_proc p WHERE p.pronamespace = 'underway'::regnamespace
    AND p.prosrc = 'underway_gateway' AND NOT EXISTS (
    SELECT FROM pg_proc i WHERE i.pronamespace = 'underway_internal'::regnamespace AND i.proname = p.proname
        AND array_to_string(i.proargtypes::oid[], ' ') = concat_ws(' ', 'oid'::regtype::oid,
            nullif(array_to_string(p.proargtypes::oid[], ' '), ''))
        AND i.prorettype = p.prorettype AND i.proretset = p.proretset
        AND coalesce((SELECT array_agg((t, n) ORDER BY k)
            FROM unnest(i.proallargtypes, i.proargnames, i.proargmodes) WITH ORDINALITY u(t, n, m, k)
            WHERE m = 't')::text, '')
          = coalesce((SELECT array_agg((t, n) ORDER BY k)
              FROM unnest(p.proallargtypes, p.proargnames, p.proargmodes) WITH ORDINALITY u(t, n, m, k)
              WHERE m = 't')::text, ''));
-- And the names of its arguments are those of the public one.
SELECT p.oid::regproc FROM pg_proc p JOIN pg_proc i ON i.pronamespace = 'underway_internal'::regnamespace
    AND i.proname = p.proname AND p.prosrc = 'underway_gateway' AND p.pronamespace = 'underway'::regnamespace
    WHERE coalesce(i.proargnames[2:1 + p.pronargs], '{}') <> coalesce(p.proargnames[1:p.pronargs], '{}');

-- Tables: a primary key on every one of which rows are changed or deleted; no types that pg_upgrade or a dump cannot
-- carry.
SELECT c.oid::regclass FROM pg_class c WHERE c.relnamespace IN (SELECT schema FROM ours) AND c.relkind = 'r'
    AND NOT c.relispartition AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary);
SELECT c.oid::regclass, a.attname, a.atttypid::regtype FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
    JOIN pg_type t ON t.oid = a.atttypid
    WHERE c.relnamespace IN (SELECT schema FROM ours) AND c.relkind IN ('r', 'p') AND a.attnum > 0
      AND (t.typname ~ '^_?reg' OR t.typtype IN ('e', 'd', 'c') OR t.typname IN ('oid', 'name', 'xid', 'tid'));
-- All rows of ours are dumped; sequences too.
SELECT c.oid::regclass FROM pg_class c WHERE c.relnamespace IN (SELECT schema FROM ours) AND c.relkind IN ('r', 'S')
    AND NOT c.oid = ANY ((SELECT extconfig FROM pg_extension WHERE extname = 'underway')::oid[]) ORDER BY 1;
-- Views are barriers.
SELECT oid::regclass FROM pg_class WHERE relnamespace = 'underway'::regnamespace AND relkind = 'v'
    AND NOT coalesce(reloptions, '{}') @> '{security_barrier=true}';
-- Everything is the extension's, and nothing is left when it is dropped.
SELECT p.oid::regprocedure FROM pg_proc p WHERE p.pronamespace IN (SELECT schema FROM ours) AND NOT EXISTS (SELECT
    FROM pg_depend d WHERE d.objid = p.oid AND d.deptype = 'e');
SELECT c.oid::regclass FROM pg_class c WHERE c.relnamespace IN (SELECT schema FROM ours)
    AND c.relkind IN ('r', 'p', 'v', 'S') AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid
    AND d.deptype = 'e');

-- The scripts: plain CREATE only, so that nothing of somebody else is adopted.
SELECT l.n, l.line
    FROM pg_available_extension_versions v, pg_read_file(format('%s/extension/underway--%s.sql', (SELECT setting
    FROM pg_config WHERE name = 'SHAREDIR'), v.version)) f,
        regexp_split_to_table(f, '\n') WITH ORDINALITY l(line, n)
    WHERE v.name = 'underway'
        AND l.line ~*
        '(CREATE OR REPLACE|(TABLE|SCHEMA|INDEX|SEQUENCE|VIEW|EXTENSION|ROLE|COLUMN) IF NOT EXISTS|SECURITY DEFINER|\mVACUUM\M|\mCONCURRENTLY\M)';
-- Every parameter has a description, and a unit where it is a time.
SELECT name, boot_val, unit, context, vartype, short_desc IS NOT NULL AS described FROM pg_settings
    WHERE name LIKE 'underway.%' ORDER BY name;
-- The body of every function is sound; a script does not look at them.
BEGIN;
DO $$ DECLARE f text; BEGIN FOR f IN SELECT pg_get_functiondef(oid) FROM pg_proc
    WHERE pronamespace IN (SELECT schema FROM ours) AND prokind IN ('f', 'p') LOOP EXECUTE f; END LOOP; END $$;
ROLLBACK;
DROP EXTENSION underway;
SELECT nspname FROM pg_namespace WHERE nspname LIKE 'underway%';
