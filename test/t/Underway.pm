# What the TAP tests share: a server with underway, handlers that tell what they did, and waiting on states.
# Invariant: nothing here sleeps for a fixed time; every wait is on a condition, with a limit that only a fault reaches.
package Underway;

use strict;
use warnings;
use Exporter 'import';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

our @EXPORT = qw(start_server sql sql_fails wait_for install our_processes workers_busy log_position log_has no_trouble_since
  within count_effects is_lively);

our $limit = 60;    # seconds; a test machine may be slow

# The handlers write into one table of effects, so that a test counts what happened:
#   note     at once                            fails    always raises
#   held     waits for the advisory lock 1      sleeper  sleeps for ever at its first attempt, and is quick at the next
#   endless  enqueues itself again: a backlog that never ends
our $handlers = <<'SQL';
CREATE TABLE effect (id serial, queue text, input jsonb, attempt int, by text DEFAULT session_user, at timestamptz DEFAULT clock_timestamp());
CREATE FUNCTION note(input jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN INSERT INTO public.effect (queue, input, attempt) VALUES ('note', input, underway.attempt()); END $$;
CREATE FUNCTION fails(input jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.effect (queue, input, attempt) VALUES ('fails', input, underway.attempt());
    RAISE 'as asked';
END $$;
CREATE FUNCTION held(input jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(1);
    INSERT INTO public.effect (queue, input, attempt) VALUES ('held', input, underway.attempt());
END $$;
CREATE FUNCTION sleeper(input jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.effect (queue, input, attempt) VALUES ('sleeper', input, underway.attempt());
    IF underway.attempt() = 1 THEN
        PERFORM pg_sleep(100000);
    END IF;
END $$;
CREATE FUNCTION endless(input jsonb) RETURNS underway.transition LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.effect (queue, input, attempt) VALUES (input ->> 'queue', input, underway.attempt());
    PERFORM pg_sleep(0.01);
    RETURN underway.again('0 s');
END $$;
SQL

# A running server with the settings of test/conf and those given; extension => 1: with the extension in its database postgres.
sub start_server
{
    my ($name, %options) = @_;
    my $node = PostgreSQL::Test::Cluster->new($name);
    $node->init(%{ $options{init} // {} });
    # As a client that cannot start psql's own settings; the log without every statement of the waits below.
    $node->append_conf('postgresql.conf', "restart_after_crash = on\nlog_statement = none\n" . ($options{conf} // ''));
    $node->start unless $options{stopped};
    sql($node, 'postgres', 'CREATE EXTENSION underway') if $options{extension};
    return $node;
}

sub sql
{
    my ($node, $database, $text) = @_;
    return $node->safe_psql($database, $text);
}

# The statement is refused with this SQLSTATE or message.
sub sql_fails
{
    my ($node, $database, $text, $expected, $name) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my ($code, $out, $err) = $node->psql($database, "\\set VERBOSITY verbose\n$text");
    isnt($code, 0, "$name: refused") or return;
    like($err, $expected, "$name: the error");
    return $err;
}

# Until the query answers true. In one session, since a new one for each look costs more than the look.
sub wait_for
{
    my ($node, $database, $query, $name) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my ($code, $out, $err) = $node->psql($database, <<"SQL");
DO \$wait\$
DECLARE
    answer bool;
BEGIN
    LOOP
        EXECUTE \$query\$SELECT ($query)\$query\$ INTO answer;
        EXIT WHEN answer;
        IF clock_timestamp() > now() + interval '$limit s' THEN
            RAISE 'not within $limit s';
        END IF;
        PERFORM pg_sleep(0.01), pg_stat_clear_snapshot();
    END LOOP;
END \$wait\$;
SQL
    ok($code == 0, $name) and return 1;
    diag($err);
    diag(state_of($node, $database));
    return 0;
}

# For a person who reads a failure.
sub state_of
{
    my ($node, $database) = @_;
    my ($code, $out, $err) = $node->psql($database, <<'SQL', extra_params => [ '--expanded', '--no-align' ]);
\pset tuples_only off
SELECT pid, datname, usename, application_name, state, wait_event, query, backend_start FROM pg_stat_activity WHERE backend_type LIKE 'underway%';
SELECT * FROM underway_internal.databases();
SELECT * FROM underway_internal.workers();
SELECT id, queue_id, state, attempt, run_at, slot, generation, boot FROM underway_internal.task LIMIT 20;
SELECT id, name, owner, paused_at, dropped_at, home_database FROM underway_internal.queue;
SQL
    return $out . $err;
}

# The extension with these handlers and a queue for each, named as it is.
sub install
{
    my ($node, $database) = @_;
    sql($node, $database, "CREATE EXTENSION underway; $handlers
        SELECT underway.create_queue(h, h) FROM unnest('{note,fails,held,sleeper,endless}'::text[]) h");
    return;
}

# In pg_stat_activity, of this database; undef: of the server.
sub our_processes
{
    my ($node, $database) = @_;
    my $where = defined $database ? "AND datname = '$database'" : '';
    return sql($node, 'postgres',
        "SELECT coalesce(string_agg(backend_type, ', ' ORDER BY backend_type), '') FROM pg_stat_activity WHERE backend_type LIKE 'underway%' $where");
}

# Until that many workers of the database are in a sleeper's sleep.
sub workers_busy
{
    my ($node, $database, $n, $name) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return wait_for($node, 'postgres', "SELECT count(*) = $n FROM pg_stat_activity
        WHERE backend_type = 'underway worker' AND datname = '$database' AND wait_event = 'PgSleep'", $name // "$n workers of $database are busy");
}

sub log_position
{
    my ($node) = @_;
    return -s $node->logfile;
}

sub log_has
{
    my ($node, $position, $pattern) = @_;
    my @found = slurp_file($node->logfile, $position) =~ /$pattern/g;
    return scalar @found;
}

# No process of ours has failed since then: neither an error of a background process, nor one that could not start.
sub no_trouble_since
{
    my ($node, $position, $name, $allowed) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my @lines = grep { / underway (launcher|coordinator|worker)\S* .*(ERROR|FATAL|PANIC|WARNING):|terminated by signal/ }
      split /\n/, slurp_file($node->logfile, $position);
    @lines = grep { !/$allowed/ } @lines if $allowed;
    return is(join("\n", @lines), '', $name);
}

# Runs it; it took less than that many seconds. A server that waits for one of ours waits for 5 s at least, or for ever.
sub within
{
    my ($seconds, $name, $what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $start = time;
    my @result = $what->();
    cmp_ok(time - $start, '<', $seconds, "$name: within $seconds s");
    return @result;
}

sub count_effects
{
    my ($node, $database, $where) = @_;
    return sql($node, $database, "SELECT count(*) FROM effect WHERE " . ($where // 'true'));
}

# A task that is enqueued now runs.
sub is_lively
{
    my ($node, $database, $name) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $id = sql($node, $database, "SELECT underway.enqueue('note', '{\"lively\": true}')");
    return wait_for($node, $database, "SELECT state = 'succeeded' FROM underway.status('$id')", $name);
}

1;
