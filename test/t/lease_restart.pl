# External leases survive a restart of the server as long as their holders beat: silence is counted from the end of recovery, however
# long the server was down.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use Session;
use Test::More;
use Underway;

my $node = start_server('lease_restart', extension => 1);
my $session = Session->new($node);
$session->value("SELECT underway.create_queue('outside', heartbeat => '10 min', timeout => '10 h')");
for my $mode ('immediate', 'fast')
{
    my ($beats, $silent) = split /\n/,
      $session->value("SELECT count(underway.enqueue('outside')) FROM generate_series(1, 2);\nSELECT lease FROM underway.dequeue('outside', 2)") =~ s/^2\n//r;
    my $task_of = sub { $session->value("SELECT id FROM underway_internal.task WHERE lease = '$_[0]'") };
    my ($kept, $lost) = map { $task_of->($_) } $beats, $silent;
    # As if the server had been down for an hour. The coordinator is asleep: it has seen nothing that is stale within half an hour.
    $session->value("UPDATE underway_internal.heartbeat SET beat_at = beat_at - interval '1 h', stale_at = stale_at - interval '1 h'");
    $session->close;
    $node->stop($mode);
    $node->start;
    $session->connect;
    my $stale = $session->value("SELECT count(*) FROM underway_internal.heartbeat h JOIN underway_internal.task t USING (lease) WHERE h.stale_at < now()");
    is $stale, 2, "$mode: two leases have been silent for too long";
    ok $session->until("EXISTS (SELECT FROM underway_internal.databases() WHERE coordinator IS NOT NULL)"), "$mode: the coordinator is there";
    is $session->value("SELECT count(*) FROM underway.dequeue('outside')"), 0, "$mode: a rival gets neither";
    $session->value("SELECT underway.set_clock(clock_timestamp() + interval '20 min')");
    is $session->value("SELECT count(*) FROM underway.dequeue('outside')"), 0, "$mode: nor soon after";
    is $session->value("SELECT underway.heartbeat('$beats')"), 'ok', "$mode: one beats";
    $session->value("SELECT underway.set_clock(clock_timestamp() + interval '31 min')");
    ok $session->until("(SELECT state = 'pending' FROM underway.status('$lost'))"), "$mode: the other is lost three intervals after the start";
    is $session->value("SELECT underway.heartbeat('$silent')"), 'lost', "$mode: as it is told";
    is $session->value("SELECT underway.complete('$beats')"), 'succeeded', "$mode: the one that beats completes";
    is $session->value("SELECT state, attempt, failures, crashes, losses FROM underway.tasks WHERE id = '$kept'"), 'succeeded|1|0|0|0',
      "$mode: at its first attempt";
    is $session->value("SELECT state, attempt, failures, crashes, losses FROM underway.tasks WHERE id = '$lost'"), 'pending|1|0|0|1',
      "$mode: and the other has lost one";
    $session->value("SELECT underway.set_clock(NULL);\nSELECT underway.purge_queue('outside')");
}

$session->close;
$node->stop;
done_testing;
