use strict;
use warnings;

# One Hearth process: it has a folder, two ports and a certificate of SyTest's authority. Clients speak plain HTTP with it,
# other servers HTTPS.
package SyTest::Homeserver::Hearth;
use base qw( SyTest::Homeserver );

use Carp qw( croak );
use Cwd qw( getcwd );
use File::Path qw( remove_tree );
use URI;

# What `adapted` puts into the tests.
use SyTest::Encryption;
use SyTest::SSL qw( ensure_ssl_key create_ssl_cert );

sub _init
{
   my $self = shift;
   my ( $args ) = @_;

   $self->{binary} = delete $args->{binary};
   defined $self->{binary} or croak "no Hearth binary: give --hearth-binary or HEARTH_BINARY";
   -x $self->{binary} or croak "$self->{binary} cannot be executed";

   $self->SUPER::_init( $args );

   my $index = $self->{hs_index};
   $self->{port} = main::alloc_port( "hearth[$index]" );
   $self->{tls_port} = main::alloc_port( "hearth[$index].tls" );
}

sub server_name
{
   my $self = shift;
   return $self->{bind_host} . ":" . $self->{tls_port};
}

sub federation_host
{
   my $self = shift;
   return $self->{bind_host};
}

sub federation_port
{
   my $self = shift;
   return $self->{tls_port};
}

sub public_baseurl
{
   my $self = shift;
   return "http://$self->{bind_host}:$self->{port}";
}

# A server of an earlier run had another authority and another time: nothing of it is kept.
sub start
{
   my $self = shift;

   my $folder = $self->{hs_dir};
   remove_tree( "$folder/data" );
   ensure_ssl_key( "$folder/tls.key" );
   create_ssl_cert( "$folder/tls.crt", "$folder/tls.key", $self->{bind_host} );
   my $config = $self->write_file( "hearth.toml", $self->_configuration );

   return $self->_start_process_and_await_connectable(
      # The log goes to a file of its own: there is more of it than the output should show.
      command => [
         "sh", "-c", 'exec "$0" --config "$1" 2>>"$2"',
         $self->{binary}, $config, "$folder/hearth.log",
      ],
      name         => "hearth-$self->{hs_index}",
      connect_host => $self->{bind_host},
      connect_port => $self->{tls_port},
   )->else( sub {
      die "Hearth did not start, see $folder/hearth.log: $_[0]\n";
   });
}

sub _configuration
{
   my $self = shift;

   my $address = "$self->{bind_host}:$self->{port}";
   my $tls_address = "$self->{bind_host}:$self->{tls_port}";
   my $name = $self->server_name;
   my $authority = getcwd() . "/keys/ca.crt";
   my $log_level = $ENV{HEARTH_LOG} // "info";
   # The suite's pages are where its identity, captcha and other servers are: at a port of its own choice.
   my $page_port = URI->new( $self->{recaptcha_config}{siteverify_api} )->port;

   return <<"TOML";
[server]
name = "$name"
data_dir = "data"

[listen]
addresses = ["$address"]
tls_addresses = ["$tls_address"]
tls_certificate = "tls.crt"
tls_key = "tls.key"

[client]
base_url = "http://$address"

[federation]
ca_files = ["$authority"]
allow_networks = ["127.0.0.0/8", "::1/128"]
backoff_min_s = 1
backoff_max_s = 1

[media.previews]
allow_networks = ["127.0.0.0/8"]
ports = [$page_port]

[push]
allow_networks = ["127.0.0.0/8"]

[users]
open_registration = true
allow_guests = true

# The suite registers some thousand users: a hash that costs little.
[users.argon2]
memory_kib = 8
iterations = 1

[http.rate_limits]
enabled = false

[log]
level = "$log_level"
TOML
}

1;
