-- The surface: names, arguments, defaults and results of everything public. What stands here is kept from the first
-- release on.
\getenv tests PG_ABS_SRCDIR
\set helpers :tests '/sql/common/helpers.sql'
\set ECHO none
\i :helpers
\set ECHO all
\pset tuples_only on
SET datestyle = 'ISO';
SET intervalstyle = 'postgres';
SELECT format(E'%s %s(%s)%s', CASE prokind WHEN 'p' THEN 'PROCEDURE'
    ELSE 'FUNCTION' END, proname, pg_get_function_arguments(oid), coalesce(E'\n    RETURNS ' || CASE prokind WHEN 'f'
    THEN pg_get_function_result(oid) END, ''))
    FROM pg_proc WHERE pronamespace = 'underway'::regnamespace ORDER BY proname;
SELECT format(E'VIEW %s:\n    %s', c.relname, string_agg(a.attname || ' ' || format_type(a.atttypid, a.atttypmod),
    E'\n    ' ORDER BY a.attnum))
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
        WHERE c.relnamespace = 'underway'::regnamespace AND c.relkind = 'v' GROUP BY c.relname ORDER BY c.relname;
SELECT format(E'TYPE %s: %s', t.typname, string_agg(a.attname || ' ' || format_type(a.atttypid, a.atttypmod), ', '
    ORDER BY a.attnum))
    FROM pg_type t JOIN pg_class c ON c.oid = t.typrelid AND c.relkind = 'c' JOIN pg_attribute a ON a.attrelid = c.oid
        AND a.attnum > 0 WHERE t.typnamespace = 'underway'::regnamespace GROUP BY t.typname;
-- A view of a user's over ours, and what a handler that a user wrote depends on, do not keep the extension from being
-- dropped with CASCADE.
CREATE VIEW mine AS SELECT name, pending FROM underway.queues;
DROP EXTENSION underway CASCADE;
