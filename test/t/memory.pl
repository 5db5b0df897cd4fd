# The memory of a worker and of the coordinator stays as it is over many failing attempts.
#   UNDERWAY_FAILURES=n  so many attempts; a million takes some minutes
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Session;
use Test::More;
use Underway;

my $failures = $ENV{UNDERWAY_FAILURES} // 30_000;
my $node = start_server('memory', extension => 1, conf => "underway.max_workers = 1\nautovacuum = off\nlog_min_messages = panic\n");
my $session = Session->new($node);
$session->value(<<'END');
-- Fails in many ways: in PL/pgSQL, in SQL inside it, after notices, by a deferred trigger; also as part of a batch.
CREATE TABLE deferred (n int UNIQUE DEFERRABLE INITIALLY DEFERRED);
CREATE FUNCTION fails(input jsonb) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    n int := (input ->> 'n')::int;
BEGIN
    RAISE NOTICE 'attempt %', underway.attempt();
    CASE n % 4
        WHEN 0 THEN RAISE 'on purpose' USING DETAIL = repeat('x', 1000), HINT = 'none';
        WHEN 1 THEN PERFORM 1 / (n - n);
        WHEN 2 THEN INSERT INTO deferred VALUES (1), (1);
        -- Not a name for each: that there is no such table is remembered by the server, for the life of the process (catcache.c).
        WHEN 3 THEN EXECUTE 'SELECT FROM nowhere_' || n % 100;
    END CASE;
END $$;
SELECT underway.create_queue('fails', 'fails', retry => underway.retry_policy(max_attempts => 3, initial_interval => '0 s'));
SELECT underway.create_queue('batches', 'fails', batch => 10, retry => underway.retry_policy(max_attempts => 3, initial_interval => '0 s'));
END

# Runs so many failing attempts and returns the sizes of worker and coordinator, in kB.
sub sizes_after
{
    my ($attempts) = @_;
    for my $queue (qw(fails batches))
    {
        my $tasks = int $attempts / 6;
        $session->value("SELECT cardinality(underway.enqueue_many('$queue', ARRAY(SELECT jsonb_build_object('n', n) FROM generate_series(1, $tasks) n)))");
        $session->until("NOT EXISTS (SELECT FROM underway_internal.task)", 3600) or die 'they do not end';
    }
    return map {
        my ($pid) = $session->pids($_);
        slurp_file("/proc/$pid/status") =~ /^RssAnon:\s+(\d+) kB/m;
        $1
    } qw(worker coordinator);
}

SKIP:
{
    skip 'the sizes of processes are read from /proc', 4 unless -r '/proc/self/status';
    my ($pid) = (sizes_after(3000), $session->pids('worker'))[2];
    my ($worker, $coordinator) = sizes_after(3000);
    my ($worker_then, $coordinator_then) = sizes_after($failures);
    is +($session->pids('worker'))[0], $pid, 'it is the same worker';
    is $session->value("SELECT count(*) >= $failures FROM underway.attempts WHERE outcome = 'failed'"), 't', "$failures attempts failed";
    note "worker: $worker kB, then $worker_then kB; coordinator: $coordinator kB, then $coordinator_then kB";
    cmp_ok $worker_then - $worker, '<', 2048, 'the worker has not grown';
    cmp_ok $coordinator_then - $coordinator, '<', 2048, 'nor has the coordinator';
}

$session->close;
$node->stop;
done_testing;
