# Roles that own queues: dropped, renamed, locked out, let in again, from this database and from another. Tasks wait meanwhile.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use Test::More;
use Underway;

my $node = start_server('roles', conf => "underway.max_workers = 8");
my $start = log_position($node);
sql($node, 'postgres', 'CREATE ROLE anna LOGIN; CREATE ROLE bert LOGIN; CREATE DATABASE second');
install($node, 'postgres');
sql($node, 'postgres', "CREATE FUNCTION who() RETURNS jsonb LANGUAGE sql RETURN to_jsonb(session_user::text);
    SELECT underway.create_queue('anna', 'who', run_as => 'anna'), underway.create_queue('bert', 'who', run_as => 'bert')");

sub runs
{
    my ($queue, $name) = @_;
    my $id = sql($node, 'postgres', "SELECT underway.enqueue('$queue')");
    wait_for($node, 'postgres', "SELECT state = 'succeeded' FROM underway.status('$id')", "$name: $queue runs");
    return is(sql($node, 'postgres', "SELECT output FROM underway.status('$id')"), "\"$queue\"", "$name: as its owner");
}

# A task waits while it cannot run, uses no attempt, and everything says why; then it runs.
sub waits_until
{
    my ($off, $on, $why, $name) = @_;
    runs('anna', "$name, before");
    sql($node, 'second', $off);
    my $id = sql($node, 'postgres', "SELECT underway.enqueue('anna')");
    wait_for($node, 'postgres', "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'underway worker' AND usename = 'anna')",
        "$name: its workers leave") if $name ne 'superuser_queues';
    runs('bert', "$name, meanwhile");
    is(sql($node, 'postgres', "SELECT state, attempt FROM underway.status('$id')"), 'pending|0', "$name: its task waits, with no attempt used");
    like(sql($node, 'postgres', "SELECT underway.why('$id')"), $why, "$name: why() says so");
    like(sql($node, 'postgres', "SELECT problem FROM underway.check_health() WHERE object = 'queue \"anna\"'"), $why, "$name: and check_health()");
    sql($node, 'second', $on);
    wait_for($node, 'postgres', "SELECT state = 'succeeded' FROM underway.status('$id')", "$name: then it runs");
    return is(sql($node, 'postgres', "SELECT attempt FROM underway.status('$id')"), '1', "$name: at its first attempt");
}

waits_until('DROP ROLE anna', 'CREATE ROLE anna LOGIN', qr/role "anna" does not exist/, 'DROP ROLE');
waits_until('ALTER ROLE anna RENAME TO annabel', 'ALTER ROLE annabel RENAME TO anna', qr/role "anna" does not exist/, 'ALTER ROLE RENAME');
waits_until('ALTER ROLE anna NOLOGIN', 'ALTER ROLE anna LOGIN', qr/not allowed to log in/, 'NOLOGIN');
waits_until('REVOKE CONNECT ON DATABASE postgres FROM PUBLIC; GRANT CONNECT ON DATABASE postgres TO bert',
    'GRANT CONNECT ON DATABASE postgres TO PUBLIC', qr/CONNECT/, 'REVOKE CONNECT');
waits_until('ALTER ROLE anna SUPERUSER; ALTER SYSTEM SET underway.superuser_queues = off; SELECT pg_reload_conf()',
    'ALTER SYSTEM RESET underway.superuser_queues; SELECT pg_reload_conf(); ALTER ROLE anna NOSUPERUSER', qr/superuser_queues/, 'superuser_queues');

# Dropped while its handler runs: the effects are of a role that is gone, and the attempt ends in a clear state.
sql($node, 'postgres', "CREATE FUNCTION waits() RETURNS void LANGUAGE plpgsql AS 'BEGIN IF underway.attempt() = 1 THEN PERFORM pg_sleep(100000); END IF; END';
    SELECT underway.create_queue('waits', 'waits', run_as => 'anna')");
my $id = sql($node, 'postgres', "SELECT underway.enqueue('waits')");
workers_busy($node, 'postgres', 1);
sql($node, 'second', 'DROP ROLE anna');
sql($node, 'postgres', "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'");
wait_for($node, 'postgres', "SELECT state = 'pending' AND attempt = 1 FROM underway.status('$id')", 'its role dropped while it runs, a task goes back');
like(sql($node, 'postgres', "SELECT underway.why('$id')"), qr/role "anna" does not exist/, 'and waits');
sql($node, 'postgres', "SELECT underway.alter_queue('waits', run_as => 'bert')");
wait_for($node, 'postgres', "SELECT state = 'succeeded' FROM underway.status('$id')", 'until somebody else runs it');

no_trouble_since($node, $start, 'nobody of ours had any trouble', qr/terminating background worker/);
$node->stop('fast');
done_testing();
