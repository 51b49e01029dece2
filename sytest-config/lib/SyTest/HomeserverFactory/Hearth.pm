use strict;
use warnings;

require SyTest::Homeserver::Hearth;

# Makes the Hearth servers of a run. `-I Hearth` selects it.
package SyTest::HomeserverFactory::Hearth;
use base qw( SyTest::HomeserverFactory );

sub _init
{
   my $self = shift;

   $self->{binary} = $ENV{HEARTH_BINARY};
   $self->SUPER::_init( @_ );
}

sub implementation_name
{
   return "hearth";
}

sub get_options
{
   my $self = shift;

   return (
      'hearth-binary=s' => \$self->{binary},
      $self->SUPER::get_options(),
   );
}

sub print_usage
{
   print STDERR "       --hearth-binary FILE         - the server to start (or \$HEARTH_BINARY)\n";
}

sub create_server
{
   my $self = shift;
   my %params = @_;

   return SyTest::Homeserver::Hearth->new( %params, binary => $self->{binary} );
}

1;
