# A worker that is held at a waitpoint, and killed there. What is to be held stands in the table target of the test, from which its handlers arm
# the waitpoint (src/waitpoint.hpp).
package Held;

use strict;
use warnings;
use Exporter 'import';
use Test::More;

our @EXPORT = qw(kill_held);

# how: TERM, KILL, or immediate, which stops the server. begin: starts a run, which is returned. session looks; hold has the lock that the
# worker waits for. Both are connected again when it returns, and nobody is held any more.
sub kill_held
{
    my ($node, $session, $hold, %at) = @_;
    my ($how, $point, $name) = @at{qw(how point name)};
    $hold->connect unless $hold->connected;
    $hold->value("SELECT pg_advisory_lock(7867, $point)");
    my $run = $at{begin}->();
    my $held = "FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE a.backend_type = 'underway worker'
        AND l.locktype = 'advisory' AND l.classid = 7867 AND l.objid = $point AND NOT l.granted";
    ok($session->until("SELECT count(*) > 0 $held"), "$name: a worker is there");
    my @pids = split /\n/, $session->value("SELECT DISTINCT l.pid $held");
    my %backends = map { $_ => $_->value('SELECT pg_backend_pid()') } ($session, $hold);
    if ($how eq 'immediate')
    {
        $node->stop('immediate');
        $node->start;
    }
    else
    {
        $session->value('DELETE FROM target');
        kill $how, @pids;
    }
    # A crash ends every connection.
    if ($how ne 'TERM')
    {
        $_->until("pg_backend_pid() <> $backends{$_}") for ($session, $hold);
    }
    $session->query('SELECT underway_internal.arm_waitpoints(0)');
    $hold->query('SELECT pg_advisory_unlock_all()');
    return $run;
}

1;
