# Everything is killed at random moments while tasks run, in the server and by external workers: at the end every task has ended
# once, and each effect is there exactly once.
#   UNDERWAY_CHAOS_SEED=n    repeats the run with that seed, which every run prints
#   UNDERWAY_CHAOS_ROUNDS=n  n times as many tasks and kills
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use Chaos;
use List::Util qw(sum);
use Session;
use Test::More;
use Underway;

my $seed = $ENV{UNDERWAY_CHAOS_SEED} // int(rand 1_000_000);
my $rounds = $ENV{UNDERWAY_CHAOS_ROUNDS} // 1;
my %tasks = (inside => 12_000 * $rounds, outside => 8_000 * $rounds);
my %kills = (
    'worker TERM' => 8 * $rounds,
    'worker KILL' => 4 * $rounds,
    'coordinator TERM' => 4 * $rounds,
    'coordinator KILL' => 2 * $rounds,
    'launcher TERM' => 2 * $rounds,
    'launcher KILL' => 1 * $rounds,
    'client TERM' => 3 * $rounds,
    'client KILL' => 5 * $rounds,
    'server immediate' => 4 * $rounds);
diag "seed $seed, " . sum(values %kills) . ' kills, ' . sum(values %tasks) . ' tasks';
srand $seed;
my $all = sum values %tasks;

my $node = start_server('chaos', extension => 1, conf => <<'END');
max_connections = 30
underway.max_workers = 4
underway.max_crashes = 1000000
END
my $session = Session->new($node);
$session->value(<<'END');
CREATE TABLE effect (task uuid, worker text);
CREATE FUNCTION act(input jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO effect VALUES (underway.task_id(), 'inside');
    -- Some fail once, some take long.
    IF (input ->> 'n')::int % 50 = 0 AND underway.attempt() = 1 THEN
        RAISE 'the first attempt fails';
    ELSIF (input ->> 'n')::int % 200 = 1 THEN
        PERFORM pg_sleep(0.05);
    END IF;
END $$;
SELECT underway.create_queue('inside', 'act', retry => underway.retry_policy(initial_interval => '10 ms', max_attempts => 1000));
SELECT underway.create_queue('outside', heartbeat => '700 ms', retry => underway.retry_policy(initial_interval => '10 ms', max_attempts => 1000));
END

# With keys, since a crash leaves the enqueuer in doubt.
my %enqueued = (inside => 0, outside => 0);

sub enqueue_some
{
    for my $queue (sort keys %tasks)
    {
        next if $enqueued{$queue} >= $tasks{$queue};
        my ($first, $last) = ($enqueued{$queue} + 1, $enqueued{$queue} + 500);
        $session->query("SELECT count(*) FROM unnest(underway.enqueue_many('$queue',"
              . " ARRAY(SELECT jsonb_build_object('n', n) FROM generate_series($first, $last) n ORDER BY n),"
              . " keys => ARRAY(SELECT n::text FROM generate_series($first, $last) n ORDER BY n)))");
        $enqueued{$queue} = $last if $session->state eq '00000';
    }
}

# An external worker.
sub work_outside
{
    my ($client, $number) = @_;
    $client->query("CALL underway.wait_for_work('{outside}', '1 s')");
    my @leases = split /\n/, $client->query("SELECT lease FROM underway.dequeue('outside', 50, 'client $number')") // '';
    while (@leases)
    {
        my @some = splice @leases, 0, 1 + int rand 10;
        my $list = "'{" . join(',', @some) . "}'::uuid[]";
        $client->query("SELECT answer FROM underway.heartbeat_many('{" . join(',', @some, @leases) . "}')");
        my $what = rand;
        my $effect = "INSERT INTO effect SELECT t.id, 'outside' FROM underway_internal.task t WHERE t.lease = ANY ($list)";
        if ($what < 0.1)
        {
            $client->query(@some == 1 ? "SELECT underway.fail('$some[0]', 'for the sake of it')"
                : "SELECT underway.release(l) FROM unnest($list) l");
        }
        elsif ($what < 0.15)
        {
            $client->query("SELECT underway.snooze(l, '20 ms') FROM unnest($list) l");
        }
        else
        {
            $client->query("BEGIN;\nSELECT underway.lock_task(l) FROM unnest($list) l;\n$effect;\nSELECT underway.complete_many($list);\nCOMMIT");
        }
        last unless $client->connected;
    }
}

enqueue_some() for 1 .. 6;
my $chaos = Chaos->new($node, session => $session, kills => \%kills, effects => \%tasks, clients => 2, work => \&work_outside, seconds => 600 * $rounds);
$chaos->rage('SELECT worker, count(*) FROM effect GROUP BY 1', \&enqueue_some);
while (sum(values %enqueued) < $all and $chaos->in_time)
{
    enqueue_some() if $chaos->connected;
}

ok $session->until("NOT EXISTS (SELECT FROM underway.tasks WHERE state NOT IN ('succeeded', 'failed', 'cancelled'))", 120),
  'nothing is stuck'
  or diag $session->query("SELECT queue, state, count(*), min(run_at), max(attempt), min(underway.why(id)) FROM underway.tasks WHERE state <> 'succeeded' GROUP BY 1, 2");
$chaos->end;

is $session->value('SELECT queue, state, count(*), count(DISTINCT id) FROM underway.tasks GROUP BY 1, 2 ORDER BY 1, 2'),
  join("\n", map { "$_|succeeded|$tasks{$_}|$tasks{$_}" } sort keys %tasks), 'every task ended once, well';
is $session->value('SELECT worker, count(*), count(DISTINCT task) FROM effect GROUP BY 1 ORDER BY 1'),
  join("\n", map { "$_|$tasks{$_}|$tasks{$_}" } sort keys %tasks), 'each effect is there exactly once';
is $session->value('SELECT count(*) FROM effect e WHERE NOT EXISTS (SELECT FROM underway.tasks t WHERE t.id = e.task)'), 0,
  'no effect is of a task that is not there';
is $session->value('SELECT count(*) FROM underway_internal.task'), 0, 'no unfinished task is left';
ok $session->until("(SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'underway launcher') = 1"), 'the launcher is up';
note $session->value("SELECT outcome, count(*) FROM underway.attempts GROUP BY 1 ORDER BY 1");

$session->close;
$node->stop;
done_testing;
