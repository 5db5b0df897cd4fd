# The server's own life: restarts of every kind, the death of each of our processes, SIGHUP, settings of databases and roles.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use Session;
use Test::More;
use Underway;

my $node = start_server('restart', conf => "underway.worker_max_age = '1h'");
install($node, 'postgres');
sql($node, 'postgres', "CREATE DATABASE second");
install($node, 'second');
my $me = sql($node, 'postgres', 'SELECT current_user');

# Tasks in progress at a stop go on after the start, with no failure used, and their effects stand once.
my %counter = (smart => 'losses', fast => 'losses', immediate => 'crashes');
for my $mode ('fast', 'smart', 'immediate')
{
    my @ids;
    for my $database ('postgres', 'second')
    {
        sql($node, $database, 'TRUNCATE effect');
        push @ids, sql($node, $database, "SELECT underway.enqueue('sleeper', to_jsonb('$mode'::text))");
        workers_busy($node, $database, 1);
    }
    my $position = log_position($node);
    # pg_ctl waits for 60 s; what does not obey is killed after 5 s only by an immediate stop.
    within(4, "$mode stop while busy", sub { $node->stop($mode) });
    is(log_has($node, $position, qr/terminated by signal|ERROR:|PANIC:/), 0, "$mode stop is clean") if $mode ne 'immediate';
    $node->start;
    for my $database ('postgres', 'second')
    {
        my $id = shift @ids;
        wait_for($node, $database, "SELECT state = 'succeeded' FROM underway.status('$id')", "$database, after $mode: the task goes on");
        is(sql($node, $database, "SELECT attempt, failures, $counter{$mode} FROM underway.tasks WHERE id = '$id'"), '2|0|1',
            "$database, after $mode: at its second attempt, without a failure");
        is(sql($node, $database, "SELECT outcome, worker IS NOT NULL, error IS NOT NULL FROM underway.attempts WHERE task_id = '$id' AND attempt = 1"),
            'lost|t|t', "$database, after $mode: the first was lost, and says why");
        is(count_effects($node, $database), '1', "$database, after $mode: its effect stands once");
    }
}

# What was waiting is found, not only what was in progress.
sql($node, 'second', "SELECT underway.enqueue('note', run_at => now() + interval '1 day')");
$node->restart;
sql($node, 'postgres', "SELECT underway.set_clock(now() + interval '2 days')");
wait_for($node, 'second', "SELECT count(*) = 1 FROM effect WHERE queue = 'note'", 'a delayed task is found after a restart');
sql($node, 'postgres', 'SELECT underway.set_clock(NULL)');

# Nobody misses a process of ours for long.
sub terminate_all
{
    my ($type) = @_;
    return sql($node, 'postgres', "SELECT coalesce(string_agg(pid::text, ','), '0') FROM (
        SELECT pid, pg_terminate_backend(pid, 10000) AS done FROM pg_stat_activity WHERE backend_type = 'underway $type') t WHERE done");
}
for my $type ('worker', 'coordinator', 'launcher')
{
    sql($node, 'postgres', 'TRUNCATE effect');
    my $id = sql($node, 'postgres', "SELECT underway.enqueue('sleeper')");
    workers_busy($node, 'postgres', 1);
    my $pids = terminate_all($type);
    isnt($pids, '0', "pg_terminate_backend of each $type");
    if ($type eq 'worker')
    {
        wait_for($node, 'postgres', "SELECT state = 'succeeded' FROM underway.status('$id')", 'its task goes on');
        is(sql($node, 'postgres', "SELECT attempt, failures, losses, crashes FROM underway.tasks WHERE id = '$id'"), '2|0|1|0', 'no failure used');
    }
    else
    {
        wait_for($node, 'postgres', "SELECT count(*) > 0 FROM pg_stat_activity WHERE backend_type = 'underway $type' AND pid NOT IN ($pids)",
            'another one takes its place');
        is(sql($node, 'postgres', "SELECT state, attempt FROM underway.status('$id')"), 'in_progress|1', 'the task in progress stays with its worker');
        terminate_all('worker');
        wait_for($node, 'postgres', "SELECT state = 'succeeded' FROM underway.status('$id')", 'and its worker is looked after');
    }
    is_lively($node, $_, "$_ goes on") for ('postgres', 'second');
}

# All at once, while work comes in.
terminate_all('%') for 1 .. 2;
sql($node, 'postgres', "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type LIKE 'underway%'");
is_lively($node, 'postgres', 'all of them terminated: everything comes back');

# kill -9 makes the server restart all processes.
for my $type ('worker', 'coordinator', 'launcher')
{
    sql($node, 'postgres', 'TRUNCATE effect');
    my $id = sql($node, 'postgres', "SELECT underway.enqueue('sleeper')");
    workers_busy($node, 'postgres', 1);
    my $pid = sql($node, 'postgres', "SELECT pid FROM pg_stat_activity WHERE backend_type = 'underway $type'
        AND (datname = 'postgres' OR datname IS NULL) ORDER BY wait_event = 'PgSleep' DESC LIMIT 1");
    my $position = log_position($node);
    kill 'KILL', $pid;
    $node->wait_for_log(qr/database system is ready to accept connections/, $position);
    wait_for($node, 'postgres', "SELECT state = 'succeeded' FROM underway.status('$id')", "kill -9 of a $type: the task goes on");
    is(sql($node, 'postgres', "SELECT attempt, failures, crashes FROM underway.tasks WHERE id = '$id'"), '2|0|1', 'no failure used, a crash counted');
    is(count_effects($node, 'postgres', "queue = 'sleeper'"), '1', 'its effect stands once');
    is_lively($node, 'second', 'the other database goes on');
}

# SIGHUP.
my $workers = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'underway worker'";
sql($node, 'postgres', "TRUNCATE effect; SELECT underway.enqueue('endless', jsonb_build_object('queue', n)) FROM generate_series(1, 8) n");
wait_for($node, 'postgres', 'SELECT (' . $workers . ') = 4', 'as many workers as underway.max_workers');
$node->append_conf('postgresql.conf', 'underway.max_workers = 6');
$node->reload;
wait_for($node, 'postgres', 'SELECT (' . $workers . ') = 6', 'raised: more of them');
$node->append_conf('postgresql.conf', 'underway.max_workers = 1');
$node->reload;
wait_for($node, 'postgres', 'SELECT (' . $workers . ') = 1', 'lowered: fewer of them');
$node->append_conf('postgresql.conf', 'underway.max_workers = 0');
$node->reload;
wait_for($node, 'postgres', 'SELECT (' . $workers . ') = 0', '0: none');
$node->append_conf('postgresql.conf', 'underway.max_workers = 4');
$node->reload;
wait_for($node, 'postgres', 'SELECT (' . $workers . ') = 4', 'and back');
sql($node, 'postgres', "SELECT underway.purge_queue('endless'); SELECT underway.drop_queue('endless', force => true)");
wait_for($node, 'postgres', "SELECT count(*) = 0 FROM underway_internal.task", 'the backlog has ended');

# underway.enabled. Where it is off no process stays; who was connected before knows of it nevertheless.
$node->append_conf('postgresql.conf', "underway.worker_idle_timeout = '1s'");
$node->reload;
my $connected = Session->new($node);
sub held_and_back
{
    my ($off, $on, $name) = @_;
    is_lively($node, 'postgres', "$name: a worker is warm");
    $off->();
    wait_for($node, 'postgres', "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'underway worker' AND datname = 'postgres')",
        "$name off: workers leave");
    my $id = sql($node, 'postgres', "SELECT underway.enqueue('note')");
    is_lively($node, 'second', "$name off: the other database goes on") if $name =~ /DATABASE/;
    wait_for($node, 'postgres', "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'underway coordinator' AND datname = 'postgres')",
        "$name off: nobody stays");
    is(sql($node, 'postgres', "SELECT state, attempt FROM underway.status('$id')"), 'pending|0', "$name off: nothing runs");
    like($connected->value("SELECT underway.why('$id')"), qr/^held/, "$name off: all know why");
    $on->();
    wait_for($node, 'postgres', "SELECT state = 'succeeded' FROM underway.status('$id')", "$name on: it runs");
    is($connected->value('SELECT underway_internal.is_enabled()'), 't', "$name on: all know it");
    return;
}
held_and_back(
    sub { sql($node, 'postgres', 'ALTER DATABASE postgres SET underway.enabled = off') },
    sub { sql($node, 'postgres', 'ALTER DATABASE postgres RESET underway.enabled') }, 'ALTER DATABASE SET underway.enabled');
held_and_back(
    sub { sql($node, 'postgres', 'ALTER SYSTEM SET underway.enabled = off'); $node->reload },
    sub { sql($node, 'postgres', 'ALTER SYSTEM RESET underway.enabled'); $node->reload }, 'ALTER SYSTEM SET underway.enabled');
$connected->close;
$node->append_conf('postgresql.conf', "underway.worker_idle_timeout = '1min'");
$node->reload;

# Settings of databases and roles reach workers without a restart of the server.
sql($node, 'postgres', "CREATE FUNCTION tells() RETURNS jsonb LANGUAGE sql RETURN to_jsonb(current_setting('work_mem') || ' ' || current_setting('app.x', true));
    CREATE ROLE teller LOGIN; SELECT underway.create_queue('tells', 'tells', run_as => 'teller')");
sub told
{
    my ($expected, $name) = @_;
    my $id = sql($node, 'postgres', "SELECT underway.enqueue('tells')");
    wait_for($node, 'postgres', "SELECT state = 'succeeded' FROM underway.status('$id')", "$name: runs");
    return is(sql($node, 'postgres', "SELECT output FROM underway.status('$id')"), $expected, $name);
}
told('', 'before');
sql($node, 'second', "ALTER ROLE teller SET work_mem = '5MB'; ALTER ROLE teller SET app.x = 'role'");
told('"5MB role"', 'ALTER ROLE SET');
sql($node, 'postgres', "BEGIN; ALTER ROLE teller RESET work_mem; ALTER DATABASE second SET work_mem = '8MB';
    ALTER DATABASE postgres SET work_mem = '7MB'; COMMIT");
told('"7MB role"', 'ALTER DATABASE SET, of two in one transaction');
sql($node, 'postgres', "BEGIN; ALTER ROLE teller SET work_mem = '9MB'; ROLLBACK");
told('"7MB role"', 'ALTER ROLE SET rolled back');

$node->stop('fast');
done_testing();
