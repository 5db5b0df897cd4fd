# What goes wrong around a handler ends in a clear state with a clear error, and our processes stay up: errors of deferred triggers,
# timeouts of locks and statements, roles that are dropped and rights that are revoked in the midst, functions that are altered, and
# a full disk.
use strict;
use warnings;

# The small tablespace is a file system of its own: anybody may mount one where nobody else sees it. Before the modules below, which
# take the output for theirs. Where that is forbidden, full_disk.c makes a disk full.
BEGIN
{
    my @private = qw(unshare --user --map-current-user --mount --keep-caps);
    if (!$ENV{PRIVATE_MOUNTS})
    {
        $ENV{PRIVATE_MOUNTS} = system("@private mount -t tmpfs tmpfs /mnt >/dev/null 2>&1") == 0 ? 'yes' : 'no';
        exec @private, $^X, (map { "-I$_" } @INC), $0 if $ENV{PRIVATE_MOUNTS} eq 'yes';
    }
}

use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Session;
use Test::More;
use Underway;
use Waitpoint;

my $folder = PostgreSQL::Test::Utils::tempdir();
mkdir "$folder/small";
my $mounted = $ENV{PRIVATE_MOUNTS} eq 'yes' && system('mount', '-t', 'tmpfs', '-o', 'size=8m', 'tmpfs', "$folder/small") == 0;
my $shim = !$mounted && IPC::Run::run([ $ENV{CC} // 'cc', '-shared', '-fPIC', '-O1', '-w', '-o', "$folder/full_disk.so", "$FindBin::RealBin/full_disk.c", '-ldl' ]);
$ENV{LD_PRELOAD} = "$folder/full_disk.so" if $shim;
$ENV{FULL_DISK} = "$folder/full";
my $node = start_server('faults', extension => 1, conf => "underway.max_workers = 2\n");
delete $ENV{LD_PRELOAD};
my $session = Session->new($node);
$session->value(<<'END');
CREATE TABLE effect (task uuid, what text);
GRANT INSERT ON effect TO PUBLIC;
CREATE TABLE account (id int PRIMARY KEY);
CREATE TABLE entry (account int REFERENCES account DEFERRABLE INITIALLY DEFERRED);
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'refused at the end, in attempt %', underway.attempt(); END $$;
CREATE TABLE refused (n int);
CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON refused DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse();
CREATE FUNCTION sleep_at_end() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(3600); RETURN NULL; END $$;
CREATE TABLE sleepy (n int);
CREATE CONSTRAINT TRIGGER sleep AFTER INSERT ON sleepy DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION sleep_at_end();
-- Does what its input says, then waits while the test holds the lock.
CREATE FUNCTION act(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO effect VALUES (underway.task_id(), input ->> 'do');
    EXECUTE coalesce(input ->> 'do', 'SELECT');
    PERFORM pg_advisory_xact_lock_shared(1);
    RETURN input -> 'output';
END $$;
SELECT underway.create_queue('act', 'act', retry => underway.retry_policy(max_attempts => 1), settings => '{"search_path": "public"}');
SELECT underway.create_queue('batch', 'act', batch => 20, retry => underway.retry_policy(max_attempts => 1), settings => '{"search_path": "public"}');
END
my ($worker_log) = (-s $node->logfile);

# Runs the statement as a task; returns its end.
sub ends
{
    my ($do, %options) = @_;
    my $queue = $options{queue} // 'act';
    my $more = $options{more} // '';
    my $id = $session->value("SELECT underway.enqueue('$queue', jsonb_build_object('do', \$do\$$do\$do\$)$more)");
    $session->until("(SELECT state IN ('succeeded', 'failed', 'cancelled') FROM underway.status('$id'))", 60)
      or diag $session->query("SELECT underway.why('$id')");
    return $session->value("SELECT state, attempt, failures, sqlstate, error FROM underway.status('$id')");
}

# Errors that come with the end of the transaction are the attempt's; its effects are gone.
is ends('INSERT INTO entry VALUES (4711)'),
  'failed|1|1|23503|insert or update on table "entry" violates foreign key constraint "entry_account_fkey"', 'a deferred constraint';
is ends('INSERT INTO refused VALUES (1)'), 'failed|1|1|P0001|refused at the end, in attempt 1', 'a deferred trigger, which knows its task';
is ends('INSERT INTO sleepy VALUES (1)', more => ", timeout => '50 ms'"),
  'failed|1|1|57014|canceling statement due to statement timeout', 'a deferred trigger over the time';
is $session->value('SELECT count(*) FROM effect'), 0, 'no effect is left';
$session->value(<<'END');
SELECT count(underway.enqueue('batch', jsonb_build_object('do', CASE WHEN n = 7 THEN 'INSERT INTO entry VALUES (4711)' ELSE 'SELECT' END)))
    FROM generate_series(1, 20) n
END
ok $session->until("NOT EXISTS (SELECT FROM underway_internal.task)"), 'a batch with one of them ends';
is $session->value("SELECT state, count(*) FROM underway.tasks WHERE queue = 'batch' GROUP BY 1 ORDER BY 1"), "failed|1\nsucceeded|19",
  'the one fails, the others succeed';

# Timeouts.
my $other = Session->new($node);
$other->value("BEGIN;\nLOCK TABLE account");
is ends("SET LOCAL lock_timeout = '20 ms'; INSERT INTO account VALUES (1)"), 'failed|1|1|55P03|canceling statement due to lock timeout', 'a lock timeout';
is ends('INSERT INTO account VALUES (1)', more => ", timeout => '50 ms'"), 'failed|1|1|57014|canceling statement due to statement timeout', 'a statement timeout';
$other->value('ROLLBACK');
is ends("SET statement_timeout = 1; SET lock_timeout = 1; SET idle_in_transaction_session_timeout = 1; SELECT pg_sleep(0.05)"),
  'succeeded|1|0||', "timeouts that a handler sets do not reach what is ours";

# In the midst: while the handler runs its owner or its rights go, or it is altered.
$session->value(<<'END');
CREATE ROLE worker LOGIN;
REVOKE EXECUTE ON FUNCTION act FROM PUBLIC;
GRANT EXECUTE ON FUNCTION act TO worker;
SELECT underway.create_queue('theirs', 'act', run_as => 'worker');
SELECT pg_advisory_lock(1);
END

sub begin
{
    my $id = $session->value("SELECT underway.enqueue('theirs')");
    $session->until("(SELECT state = 'in_progress' FROM underway.status('$id')) AND EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'underway worker' AND wait_event = 'advisory')") or die 'it does not run';
    return $id;
}

# Comes to be, and no worker has a task in hand: one that has claimed what may not run any more gives it back.
sub settles
{
    my ($name, $told, $expected) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    ok $session->until("NOT EXISTS (SELECT FROM underway.workers WHERE tasks > 0) AND ($told) ~ '$expected'"), $name or diag $session->query($told);
}

# Lets it go on, with another task that is enqueued meanwhile: how the first ends, and how and why the other waits.
sub goes_on
{
    my ($name, $id, $expected) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $next = $session->value("SELECT underway.enqueue('theirs')");
    $session->value('SELECT pg_advisory_unlock(1)');
    settles($name, "SELECT concat_ws('|', a.state, a.attempt, a.failures, b.state, b.attempt, underway.why('$next')) FROM underway.status('$id') a, underway.status('$next') b",
        $expected);
    $session->value('SELECT pg_advisory_lock(1)');
    return $next;
}

sub runs_then
{
    my ($next, $name) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    $session->value('SELECT pg_advisory_unlock(1)');
    ok $session->until("(SELECT state = 'succeeded' AND attempt <= 2 AND failures = 0 FROM underway.status('$next'))"), "$name: then it runs"
      or diag $session->query("SELECT *, underway.why('$next') FROM underway.status('$next')");
    $session->value('SELECT pg_advisory_lock(1)');
}

my $id = begin();
$session->value('REVOKE EXECUTE ON FUNCTION act FROM worker');
my $next = goes_on('a right that is revoked: what runs ends, the next waits and says why', $id, '^succeeded\|1\|0\|pending\|0\|.*EXECUTE');
like $session->value("SELECT string_agg(problem, ' ') FROM underway.check_health()"), qr/EXECUTE/, 'check_health() tells';
$session->value('GRANT EXECUTE ON FUNCTION act TO worker');
runs_then($next, 'granted again');

# Claimed, and not begun.
arm($session, 2);
# Not flushed, so that it is not handed over with its commit: a worker claims it.
$id = $session->value("SET synchronous_commit = off;\nSELECT underway.enqueue('theirs')") =~ s/\s//gr;
$session->value('RESET synchronous_commit');
$session->until(held_at(2)) or die 'nothing is claimed';
$session->value('REVOKE EXECUTE ON FUNCTION act FROM worker');
disarm($session);
settles('a right that is revoked between claim and begin: no attempt is used',
    "SELECT concat_ws('|', state, attempt, failures, underway.why('$id')) FROM underway.status('$id')", '^pending\|0\|0\|.*EXECUTE');
$session->value('GRANT EXECUTE ON FUNCTION act TO worker');
runs_then($id, 'granted again');

$id = begin();
$session->value("ALTER FUNCTION act(jsonb) RENAME TO acted");
$next = goes_on('a handler that is renamed: what runs ends, the next waits', $id, '^succeeded\|1\|0\|pending\|0\|.*does not exist');
$session->value("CREATE FUNCTION act(input text) RETURNS void LANGUAGE sql AS 'SELECT'");
like $session->value("SELECT underway.why('$next')"), qr/does not exist/, 'one of other types is not taken for it';
$session->value("DROP FUNCTION act(text);\nALTER FUNCTION acted(jsonb) RENAME TO act");
runs_then($next, 'named back');

$id = begin();
$session->value('DROP OWNED BY worker; DROP ROLE worker');
$next = goes_on('a role that is dropped: no attempt is used, the next waits and says why', $id,
    '^(succeeded\|1\|0|pending\|[12]\|0)\|pending\|0\|.*worker.*does not exist');
$session->value('CREATE ROLE worker LOGIN; GRANT EXECUTE ON FUNCTION act TO worker; GRANT INSERT ON effect TO worker');
runs_then($next, 'made again');
$session->value('SELECT pg_advisory_unlock(1)');
ok $session->until("NOT EXISTS (SELECT FROM underway_internal.task)"), 'nothing is left';

sub trouble
{
    return join "\n", grep { / underway (launcher|coordinator|worker)\S* .*(ERROR|FATAL|PANIC)|terminated by signal/ } split /\n/, slurp_file($node->logfile, $worker_log);
}
is trouble(), '', 'none of our processes has failed so far';

# To the last page.
sub fill
{
    return append_to_file($ENV{FULL_DISK}, '') if $shim;
    $session->value('CREATE TABLE filler (x text) TABLESPACE small');
    $session->query("INSERT INTO filler SELECT repeat('x', 2000) FROM generate_series(1, 100000)");
    is $session->state, '53100', 'the tablespace is full';
}

sub make_room
{
    return $shim ? unlink $ENV{FULL_DISK} : $session->value('DROP TABLE filler');
}

# The disk is full: what can be told is told, nothing spins, and when there is room again all goes on.
SKIP:
{
    skip 'neither can a small disk be mounted here, nor the full disk be compiled', 1 unless $mounted or $shim;
    note $mounted ? 'a small file system' : 'by full_disk.c';
    $session->value("CREATE TABLESPACE small LOCATION '$folder/small'");
    $session->value("DO \$\$ DECLARE t regclass; BEGIN FOR t IN SELECT oid FROM pg_class WHERE relnamespace = 'underway_internal'::regnamespace AND relkind = 'r' LOOP EXECUTE format('ALTER TABLE %s SET TABLESPACE small', t); END LOOP; END \$\$");
    # Full means: no page is free in the tables either.
    my $big = "(SELECT string_agg(md5(n::text), '') FROM generate_series(1, 2000) n)";
    $session->value("SELECT underway.pause_queue('act')");
    $id = $session->value("SELECT underway.enqueue('act', jsonb_build_object('do', 'SELECT', 'output', $big))");
    my $broken = $session->value("SELECT underway.enqueue('act', jsonb_build_object('do', 'SELECT 1/0'))");
    fill();
    $session->value("SELECT underway.resume_queue('act')");
    $session->query("SELECT underway.enqueue('act', jsonb_build_object('text', $big))");
    is $session->state, '53100', 'enqueue: the disk is full' or diag $session->answer;
    # Both kinds of process meet it, say so, and pause: longer each time, so that the log is not full next.
    my $ours = "SELECT string_agg(pid::text, ' ' ORDER BY pid) FROM pg_stat_activity WHERE backend_type IN ('underway launcher', 'underway coordinator')";
    my $pids = $session->value($ours);
    my $log = -s $node->logfile;
    my $pausing = "SELECT count(*) FROM regexp_matches(pg_read_file('LOG', $log, 100000000), 'WARNING:  could not extend', 'g')";
    $pausing =~ s/LOG/@{[ $node->logfile ]}/;
    ok $session->until("($pausing) >= 4"), 'the log tells of it' or diag slurp_file($node->logfile, $log);
    is $session->value($ours), $pids,
      'launcher and coordinator are up';
    like $session->value("SELECT string_agg(severity || ' ' || problem, '; ') FROM underway.check_health()"),
      qr/^error a background process fails at its own work, and tries again: could not extend file/, 'so does check_health()';
    make_room();
    ok $session->until("NOT EXISTS (SELECT FROM underway_internal.task)"), 'with room again, all end'
      or diag $session->query("SELECT *, underway.why(id) FROM underway.tasks t WHERE t.state NOT IN ('succeeded', 'failed')");
    is $session->value("SELECT state FROM underway.status('$broken')"), 'failed', 'the one that fails, failed';
    ok $session->until("NOT EXISTS (SELECT FROM underway.check_health())", 30), 'all is well again';
    note $session->value("SELECT state, attempt, failures, sqlstate, error FROM underway.status('$id')");
    my $after = $session->value("SELECT underway.enqueue('act')");
    ok $session->until("(SELECT state = 'succeeded' FROM underway.status('$after'))"), 'new work runs';
    is $session->value($ours), $pids,
      'by the same coordinator';
    is trouble(), '', 'none of our processes has failed, workers included';
}

$session->close;
$other->close;
$node->stop;
done_testing;
