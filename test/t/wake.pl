# Nothing polls: work runs when it commits or falls due, and an idle database has no transaction of ours.
# The safety check is at an hour (test/conf), so whatever is found here was told.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Session;
use Test::More;
use Underway;

my $node = start_server('wake', conf => <<'CONF');
autovacuum = off
underway.min_workers = 0
underway.worker_idle_timeout = '1s'
CONF
is(sql($node, 'postgres', 'SHOW underway.safety_check_interval'), '1h', 'the safety check is far away');
sql($node, 'postgres', 'CREATE EXTENSION pg_walinspect');
install($node, 'postgres');

my $nobody = "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type LIKE 'underway%' AND datname IS NOT NULL)";

# Commits and aborts that stand in the WAL since then, of anybody; what does not write is counted by our processes themselves.
sub transactions_since
{
    my ($lsn, $count) = @_;
    my $now = sql($node, 'postgres', 'SELECT pg_current_wal_flush_lsn()');
    my $wal = $now eq $lsn ? 0 : sql($node, 'postgres', "SELECT count(*) FROM pg_get_wal_records_info('$lsn', '$now') WHERE resource_manager = 'Transaction'");
    return $wal . ' ' . (sql($node, 'postgres', 'SELECT transactions FROM underway_internal.counters()') - $count);
}

sub mark
{
    return split / /, sql($node, 'postgres', "CHECKPOINT; SELECT pg_current_wal_flush_lsn() || ' ' || transactions FROM underway_internal.counters()");
}

# How long it took from the commit to the handler.
sub soon
{
    my ($id, $name) = @_;
    wait_for($node, 'postgres', "SELECT state = 'succeeded' FROM underway.status('$id')", "$name: it runs");
    return is(sql($node, 'postgres', "SELECT started_at - enqueued_at < interval '2 s' FROM underway.tasks WHERE id = '$id'"), 't', "$name: at once");
}

# Idle, down to nothing: workers leave, then the coordinator; only the launcher sleeps on.
is_lively($node, 'postgres', 'a task runs');
wait_for($node, 'postgres', "SELECT count(*) = 0 FROM underway_internal.workers()", 'idle workers leave');
my @mark = mark();
wait_for($node, 'postgres', $nobody, 'a coordinator with nothing to do leaves');
is(transactions_since(@mark), '0 0', 'without a transaction');
is(sql($node, 'postgres', "SELECT wakes_at > now() + interval '1 min' FROM underway_internal.databases()"), 't', 'and nothing is due within a minute');
is(our_processes($node), 'underway launcher', 'what remains is the launcher');

# From nothing.
soon(sql($node, 'postgres', "SELECT underway.enqueue('note')"), 'enqueue when no process is there');
soon(sql($node, 'postgres', "SELECT underway.enqueue('note')"), 'enqueue when a worker sleeps');

# Rolled back.
wait_for($node, 'postgres', $nobody, 'idle again');
@mark = mark();
sql($node, 'postgres', "TRUNCATE effect");
sql($node, 'postgres', "BEGIN; SELECT underway.enqueue('note'); ROLLBACK");
is(sql($node, 'postgres', "SELECT c.transactions - $mark[1], d.coordinator IS NULL AND NOT d.wanted
    FROM underway_internal.counters() c, underway_internal.databases() d"), '0|t', 'an enqueue that is rolled back wakes nobody');
# Rolled back to a savepoint it may, but there is nothing to run.
sql($node, 'postgres', "BEGIN; SAVEPOINT s; SELECT underway.enqueue('note'); ROLLBACK TO s; COMMIT");
sql($node, 'postgres', "BEGIN; SELECT underway.enqueue('note', '1'); SAVEPOINT s; SELECT underway.enqueue('note', '2'); ROLLBACK TO s;
    SELECT underway.enqueue('note', '3'); COMMIT");
wait_for($node, 'postgres', "SELECT count(*) = 2 FROM effect", 'what was not rolled back runs');
is(sql($node, 'postgres', "SELECT string_agg(input::text, ' ' ORDER BY input) FROM effect"), '1 3', 'and nothing else');

# A burst while everybody leaves: idle workers and the coordinator go after 1 s, and nothing gets stuck.
for my $n (1 .. 5)
{
    wait_for($node, 'postgres', "SELECT clock_timestamp() >= max(at) + interval '0.98 s' FROM effect", "burst $n: about when idle processes leave");
    sql($node, 'postgres', "SELECT underway.enqueue('note')");
    wait_for($node, 'postgres', "SELECT count(*) = " . (2 + $n) . " FROM effect", "burst $n: runs");
}

# Two-phase commit.
sql($node, 'postgres', "BEGIN; SELECT underway.enqueue('note', '\"yes\"'); PREPARE TRANSACTION 'yes'");
sql($node, 'postgres', "BEGIN; SELECT underway.enqueue('note', '\"no\"'); PREPARE TRANSACTION 'no'");
is_lively($node, 'postgres', 'others run meanwhile');
is(count_effects($node, 'postgres', "input IN ('\"yes\"', '\"no\"')"), '0', 'prepared, an enqueue runs nothing');
wait_for($node, 'postgres', $nobody, 'idle again');
sql($node, 'postgres', "ROLLBACK PREPARED 'no'");
sql($node, 'postgres', "COMMIT PREPARED 'yes'");
wait_for($node, 'postgres', "SELECT count(*) = 1 FROM effect WHERE input = '\"yes\"'", 'COMMIT PREPARED runs it');
is_lively($node, 'postgres', 'after ROLLBACK PREPARED');
is(count_effects($node, 'postgres', "input = '\"no\"'"), '0', 'ROLLBACK PREPARED does not');
sql($node, 'postgres', "BEGIN; SELECT underway.enqueue('note', '\"restart\"'); PREPARE TRANSACTION 'restart'");
$node->restart;
wait_for($node, 'postgres', $nobody . ' AND EXISTS (SELECT FROM underway_internal.databases() WHERE coordinator IS NULL AND NOT wanted)', 'restarted and idle again');
sql($node, 'postgres', "COMMIT PREPARED 'restart'");
wait_for($node, 'postgres', "SELECT count(*) = 1 FROM effect WHERE input = '\"restart\"'", 'COMMIT PREPARED after a restart runs it');

# A retry by timer, in real time.
sql($node, 'postgres', "SELECT underway.alter_queue('fails', retry => underway.retry_policy(max_attempts => 3, initial_interval => '1 s', backoff => 1, jitter => 0))");
my $id = sql($node, 'postgres', "SELECT underway.enqueue('fails')");
wait_for($node, 'postgres', "SELECT state = 'failed' FROM underway.status('$id')", 'three attempts');
is(sql($node, 'postgres', "SELECT string_agg(round(extract(epoch FROM retry_at - ended_at), 1) || ' s, ' ||
        CASE WHEN next < retry_at THEN 'too early by ' || retry_at - next WHEN next > retry_at + interval '2 s' THEN 'too late by ' || next - retry_at
            ELSE 'in time' END, '; ' ORDER BY attempt)
    FROM (SELECT *, lead(started_at) OVER (ORDER BY attempt) AS next FROM underway.attempts WHERE task_id = '$id') s WHERE next IS NOT NULL"),
    '1.0 s, in time; 1.0 s, in time', 'a retry that is due in 1 s runs 1 s later');

# By the test clock: hours later, and not before; meanwhile it costs nothing.
sql($node, 'postgres', "SELECT underway.alter_queue('fails', retry => underway.retry_policy(max_attempts => 2, initial_interval => '3 h', max_interval => '3 h', jitter => 0))");
$id = sql($node, 'postgres', "SELECT underway.enqueue('fails')");
wait_for($node, 'postgres', "SELECT state = 'pending' AND attempt = 1 FROM underway.status('$id')", 'it failed once');
my $tomorrow = sql($node, 'postgres', "SELECT underway.enqueue('note', '\"tomorrow\"', delay => '1 day')");
wait_for($node, 'postgres', $nobody, 'idle again');
@mark = mark();
is(sql($node, 'postgres', "SELECT wakes_at > now() + interval '10 min' FROM underway_internal.databases()"), 't', 'nobody is woken for it soon');
is(transactions_since(@mark), '0 0', 'and it costs nothing');
sql($node, 'postgres', "SELECT underway.set_clock(now() + interval '2 h 59 min')");
is_lively($node, 'postgres', 'a minute before it is due');
is(sql($node, 'postgres', "SELECT attempt FROM underway.status('$id')"), '1', 'it does not run');
sql($node, 'postgres', "SELECT underway.set_clock(now() + interval '3 h 1 min')");
wait_for($node, 'postgres', "SELECT state = 'failed' FROM underway.status('$id')", 'a minute later it has run');
is(sql($node, 'postgres', "SELECT state FROM underway.status('$tomorrow')"), 'pending', 'tomorrow is not today');
sql($node, 'postgres', "SELECT underway.set_clock(now() + interval '25 h')");
wait_for($node, 'postgres', "SELECT state = 'succeeded' FROM underway.status('$tomorrow')", 'but comes');
sql($node, 'postgres', 'SELECT underway.set_clock(NULL)');

# Earlier than what a timer was set for.
sql($node, 'postgres', "SELECT underway.enqueue('note', delay => '1 h')");
wait_for($node, 'postgres', $nobody, 'idle again');
$id = sql($node, 'postgres', "SELECT underway.enqueue('note', delay => '1 s')");
wait_for($node, 'postgres', "SELECT state = 'succeeded' FROM underway.status('$id')", 'a timer that has to go earlier');
is(sql($node, 'postgres', "SELECT started_at - run_at BETWEEN interval '0' AND interval '2 s' FROM underway.tasks WHERE id = '$id'"), 't', 'to the second');

# Warm workers stay, asleep.
$node->append_conf('postgresql.conf', 'underway.min_workers = 1');
$node->reload;
is_lively($node, 'postgres', 'with a warm worker');
# All of them idle from the same moment on: each must not count on the others to stay.
for my $burst (1 .. 3)
{
    my $holder = $node->background_psql('postgres');
    $holder->query_safe('SELECT pg_advisory_lock(1)');
    sql($node, 'postgres', "SELECT underway.enqueue('held') FROM generate_series(1, 4)");
    wait_for($node, 'postgres', "SELECT count(*) = 4 FROM pg_stat_activity WHERE wait_event = 'advisory'", "burst $burst: four workers are busy");
    $holder->quit;
    wait_for($node, 'postgres', "SELECT count(*) = 1 FROM underway_internal.workers() WHERE state = 'idle' HAVING count(*) = (SELECT count(*) FROM underway_internal.workers())",
        "burst $burst: one is kept");
}
my $pid = sql($node, 'postgres', 'SELECT pid FROM underway_internal.workers()');
@mark = mark();
# It says so each time that it goes to sleep. It is asleep for twice its idle timeout: it does not wake only to see that it is needed.
wait_for($node, 'postgres', "SELECT clock_timestamp() > state_change + interval '2.2 s' FROM pg_stat_activity WHERE pid = $pid", 'it sleeps on');
is(transactions_since(@mark), '0 0', 'without a transaction of ours');
is(sql($node, 'postgres', 'SELECT pid FROM underway_internal.workers()'), $pid, 'it is the same worker');

# What a person sees.
my $session = $node->background_psql('postgres');
$session->query_safe('SELECT pg_advisory_lock(1)');
$id = sql($node, 'postgres', "SELECT underway.enqueue('held')");
wait_for($node, 'postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'advisory'", 'a task runs');
is(sql($node, 'postgres', "SELECT backend_type, application_name ~ '^underway worker [0-9]+\$', state, query, usename = current_user
    FROM pg_stat_activity WHERE wait_event = 'advisory'"), "underway worker|t|active|underway: held, task $id, attempt 1|t", 'the task in hand');
is(sql($node, 'postgres', "SELECT string_agg(backend_type || ' / ' || application_name || ' / ' || coalesce(datname, '-') || ' / ' || wait_event, ', ' ORDER BY backend_type)
    FROM pg_stat_activity WHERE backend_type IN ('underway launcher', 'underway coordinator')"),
    'underway coordinator / underway coordinator / postgres / Extension, underway launcher / underway launcher / - / Extension', 'launcher and coordinator');
is(sql($node, 'postgres', "SELECT state, queue, task_id = '$id', attempt FROM underway.workers WHERE state = 'busy'"), 'busy|held|t|1', 'the view of workers');
$session->quit;
wait_for($node, 'postgres', "SELECT state = 'succeeded' FROM underway.status('$id')", 'it ends');
wait_for($node, 'postgres', "SELECT bool_and(state = 'idle') FROM pg_stat_activity WHERE backend_type = 'underway worker'", 'and the worker is idle');

# Who waits for a task is woken by its end, and by no other's, however many end in one commit: each wake-up would cost a look.
sql($node, 'postgres', "SELECT underway.create_queue('outside'), underway.enqueue_many('outside', array_fill('{}'::jsonb, ARRAY[100]))");
sql($node, 'postgres', "CREATE TABLE lease AS SELECT id, lease, get_byte(uuid_send(id), 14) * 256 + get_byte(uuid_send(id), 15) & 4095 AS place
    FROM underway.dequeue('outside', 100)");
# By the places of their ids in await.hpp.
my ($alone, $among) = split / /, sql($node, 'postgres', "SELECT string_agg(id::text, ' ') FROM (SELECT id FROM lease
    WHERE place IN (SELECT place FROM lease GROUP BY place HAVING count(*) = 1) LIMIT 2) s");
my ($lone, $other) = map { Session->new($node) } 1, 2;
my $waits_at = sub { "SELECT wait_event = 'Extension' FROM pg_stat_activity WHERE pid = $_[0]" };
my @pids = map { $_->value('SELECT pg_backend_pid()') } $lone, $other;
$lone->send("CALL underway.wait_for('$alone', '1 h')");
$other->send("CALL underway.wait_for('$among', '1 h')");
wait_for($node, 'postgres', $waits_at->($_), 'a client waits') foreach @pids;
my $switches = sub {
    my $status = slurp_file("/proc/$pids[0]/status");
    return $status =~ /^State:\s+S.*^voluntary_ctxt_switches:\s+(\d+)/ms ? $1 : undef;
};
my $before;
for (1 .. 6000)
{
    last if defined($before = $switches->());
    select undef, undef, undef, 0.01;
}
is(sql($node, 'postgres', "SELECT cardinality(underway.complete_many(array_agg(lease))) FROM lease WHERE id <> '$alone'"), '99', '99 end in one commit');
is($other->receive, 'succeeded', 'among them what one client waits for');
is($switches->(), $before, 'who waits for another slept on');
sql($node, 'postgres', "SELECT underway.complete(lease) FROM lease WHERE id = '$alone'");
is($lone->receive, 'succeeded', 'until that one ended');
$_->close foreach $lone, $other;

$node->stop('fast');
done_testing();
