# Processes that are held in the middle of what they do (src/waitpoint.hpp): at a waitpoint as long as a session has its lock.
package Waitpoint;

use strict;
use warnings;
use Exporter 'import';

our @EXPORT = qw(arm let_pass disarm stands held_at);

our $class = 7867;

# Whoever comes to that point from now on stands there.
sub arm
{
    my ($holder, $point) = @_;
    return $holder->value("SELECT pg_advisory_lock($class, $point), underway_internal.arm_waitpoints(1 << $point)");
}

# Who stands there goes on, to stand there again the next time.
sub let_pass
{
    my ($holder, $point) = @_;
    return $holder->value("SELECT pg_advisory_unlock($class, $point), pg_advisory_lock($class, $point)");
}

# Everybody goes on, those as well who wait for another advisory lock of the holder.
sub disarm
{
    my $holder = shift;
    return $holder->value('SELECT underway_internal.arm_waitpoints(0), pg_advisory_unlock_all()');
}

# Conditions: a process waits for the lock of these two keys; one stands at a waitpoint.
sub stands
{
    my ($key, $other_key) = @_;
    return "EXISTS (SELECT FROM pg_locks l WHERE l.locktype = 'advisory' AND l.classid = $key AND l.objid = $other_key AND NOT l.granted)";
}

sub held_at
{
    my $point = shift;
    return stands($class, $point);
}

1;
