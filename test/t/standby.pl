# A standby runs nothing and refuses what would write; promoted, it runs everything, what was in progress on the primary included.
# A base backup that is recovered by itself keeps its home as well: it is the same database.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use Test::More;
use Underway;

my $conf = "max_connections = 30\nautovacuum = off";
my $primary = start_server('primary', init => { allows_streaming => 1, has_archiving => 1 }, conf => $conf);
install($primary, 'postgres');
sql($primary, 'postgres', "CREATE DATABASE second");
install($primary, 'second');
is_lively($primary, $_, "$_ runs on the primary") for ('postgres', 'second');

# What the copies begin with: a task that is in progress all the while, one that is delayed, one that is paused.
my $busy = sql($primary, 'postgres', "SELECT underway.enqueue('sleeper', '\"before\"')");
workers_busy($primary, 'postgres', 1);
my $delayed = sql($primary, 'second', "SELECT underway.enqueue('note', '\"delayed\"', delay => '1 day')");
$primary->backup('base');

my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;
my $later = sql($primary, 'second', "SELECT underway.enqueue('sleeper', '\"later\"')");
workers_busy($primary, 'second', 1);
$primary->wait_for_catchup($standby);

# In recovery.
is(sql($standby, 'second', "SELECT state FROM underway.status('$later')"), 'in_progress', 'a standby can be read');
is(our_processes($standby), '', 'no process of ours runs on it');
for my $call ("enqueue('note')", "enqueue_many('note', '{1,2}')", "create_queue('new')", "pause_queue('note')", "cancel('$later')", "purge_queue('note')")
{
    sql_fails($standby, 'second', "SELECT underway.$call", qr/ERROR:  25006: /, "$call on a standby");
}
like(sql($standby, 'second', 'SELECT severity, problem FROM underway.check_health()'), qr/^notice\|this server is a standby: nothing runs here$/m,
    'check_health() says what it is');
is(our_processes($standby), '', 'none was started by that');
is(sql($standby, 'second', 'SELECT count(*) FROM underway_internal.databases() WHERE coordinator IS NOT NULL'), '0', 'nor by calls on it');

# Promoted, while the primary is gone.
my $start = log_position($standby);
$primary->stop('immediate');
$standby->promote;
wait_for($standby, 'postgres', "SELECT state = 'succeeded' FROM underway.status('$busy')", 'what was in progress on the primary goes on');
wait_for($standby, 'second', "SELECT state = 'succeeded' FROM underway.status('$later')", 'in each database');
is(sql($standby, 'postgres', "SELECT attempt, failures, crashes, losses FROM underway.tasks WHERE id = '$busy'"), '2|0|0|1', 'with no failure used, and no crash');
is_lively($standby, $_, "$_ runs after promotion") for ('postgres', 'second');
is(sql($standby, 'second', "SELECT state FROM underway.status('$delayed')"), 'pending', 'what is delayed waits');
sql($standby, 'postgres', "SELECT underway.set_clock(now() + interval '2 days')");
wait_for($standby, 'second', "SELECT state = 'succeeded' FROM underway.status('$delayed')", 'and runs when it is due');
is(count_effects($standby, 'second', "queue = 'sleeper'"), '1', 'effects stand once');
no_trouble_since($standby, $start, 'without trouble');
$standby->stop('fast');

# Point-in-time recovery of the base backup, to its end.
my $restored = PostgreSQL::Test::Cluster->new('restored');
$restored->init_from_backup($primary, 'base', has_restoring => 1, standby => 0);
$restored->append_conf('postgresql.conf', "recovery_target = 'immediate'\nrecovery_target_action = 'promote'\narchive_mode = off");
$restored->start;
wait_for($restored, 'postgres', 'SELECT NOT pg_is_in_recovery()', 'a base backup is recovered');
wait_for($restored, 'postgres', "SELECT state = 'succeeded' FROM underway.status('$busy')", 'what was in progress at the backup goes on');
is(sql($restored, 'postgres', "SELECT attempt, crashes, losses FROM underway.tasks WHERE id = '$busy'"), '2|0|1', 'it was no crash');
is(sql($restored, 'postgres', "SELECT string_agg(DISTINCT state, ',') FROM underway.queues"), 'active', 'the queues are at home');
is_lively($restored, $_, "$_ runs") for ('postgres', 'second');
$restored->stop('fast');

done_testing();
