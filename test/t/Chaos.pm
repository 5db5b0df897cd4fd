# What the chaos tests share: a server of which everything is killed at random moments, and clients of it that are killed and started
# again. Every test prints its seed.
package Chaos;

use strict;
use warnings;

use POSIX ();
use Session;
use Test::More;

# kills: what is hit how often, by names such as 'worker TERM'. effects: how many there will be, inside (of workers of the server) and outside
# (of clients). session: the test's own. clients: how many; work: what each does again and again, with a session of its own and its number.
# seconds: the time for all of it.
sub new
{
    my ($class, $node, %options) = @_;
    my $self = bless { node => $node, clients => [], work => $options{work}, until => time + $options{seconds} }, $class;
    # Each when so many effects of one kind are there: of the kind whose workers it hits, so that there is one to be hit.
    my @kills = map {
        my $kind = /worker/ ? 'inside' : 'outside';
        map { { what => $_, kind => $kind, at => int rand 0.95 * $options{effects}{$kind} } } ($_) x $options{kills}{$_}
    } sort keys %{ $options{kills} };
    $self->{kills} = [ sort { $a->{at} <=> $b->{at} } @kills ];
    $self->{session} = $options{session};
    $self->start_client($_) for 0 .. $options{clients} - 1;
    return $self;
}

# The session, connected; undef: not just now.
sub connected
{
    my ($self) = @_;
    return $self->{session} if $self->{session}->connected or $self->{session}->connect;
    select undef, undef, undef, 0.02;
    return undef;
}

sub in_time { return time < $_[0]{until} }

# Kills until all that was to be killed has been. count: a query that gives a row (inside or outside, number of effects) of each kind. meanwhile:
# called in every round.
sub rage
{
    my ($self, $count, $meanwhile) = @_;
    while (@{ $self->{kills} } and $self->in_time)
    {
        my $session = $self->connected // next;
        $meanwhile->();
        my $counted = $session->query($count) // next;
        my %done = (inside => 0, outside => 0, map { split /\|/ } split /\n/, $counted);
        my ($due) = grep { $done{ $self->{kills}[$_]{kind} } >= $self->{kills}[$_]{at} } 0 .. $#{ $self->{kills} };
        next unless defined $due;
        my ($kill) = splice @{ $self->{kills} }, $due, 1;
        note "at $done{inside} + $done{outside}: $kill->{what}";
        $self->strike($kill->{what});
    }
    is scalar @{ $self->{kills} }, 0, 'everything was killed that was to be killed';
}

sub start_client
{
    my ($self, $number) = @_;
    my $random = int rand 1_000_000;
    my $pid = fork // die "fork: $!";
    if ($pid == 0)
    {
        # The test's connection and its clean-up are not this process's.
        $self->{session}->forget;
        $SIG{TERM} = 'DEFAULT';
        POSIX::setpgid(0, 0);
        eval { $self->work($number, $random) };
        POSIX::_exit(0);
    }
    # Here too, since the first signal may come before the child has done it.
    POSIX::setpgid($pid, $pid);
    $self->{clients}[$number] = $pid;
}

# A process of its own with a connection of its own, until it is killed.
sub work
{
    my ($self, $number, $random) = @_;
    srand $random;
    my $client = Session->new($self->{node});
    my $parent = getppid;
    while (getppid == $parent)
    {
        if ($client->connected or $client->connect)
        {
            $self->{work}->($client, $number);
        }
        else
        {
            select undef, undef, undef, 0.05;
        }
    }
}

sub end_client
{
    my ($self, $number, $signal) = @_;
    kill "-$signal", $self->{clients}[$number];
    local $?;
    waitpid $self->{clients}[$number], 0;
}

sub strike
{
    my ($self, $kill) = @_;
    my ($what, $how) = split / /, $kill;
    if ($what eq 'server')
    {
        $self->{session}->close;
        $self->{node}->stop('immediate');
        $self->{node}->start;
    }
    elsif ($what eq 'client')
    {
        my $number = int rand scalar @{ $self->{clients} };
        $self->end_client($number, $how);
        $self->start_client($number);
    }
    else
    {
        # It may be about to come back from an earlier kill.
        my @pids;
        until (@pids = $self->{session}->pids($what))
        {
            die "no $what comes back" unless $self->in_time;
            $self->{session}->connect unless $self->{session}->connected;
            select undef, undef, undef, 0.01;
        }
        kill $how, $pids[ int rand @pids ];
    }
}

sub end
{
    my ($self) = @_;
    $self->end_client($_, 'KILL') for 0 .. $#{ $self->{clients} };
    $self->{clients} = [];
}

1;
