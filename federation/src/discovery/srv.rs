//! The order in which the servers of a service are tried (RFC 2782, "Usage rules").

use rand::{Rng, RngExt as _};

use super::dns::Service;

/// Sorts by priority; among equal priorities draws by weight, each the next.
pub(super) fn order(mut services: Vec<Service>, random: &mut impl Rng) -> Vec<Service> {
    // Those without weight come first, so that a draw of zero finds them.
    services.sort_by_key(|service| (service.priority, service.weight));
    let mut ordered = Vec::with_capacity(services.len());
    while let Some(first) = services.first() {
        let priority = first.priority;
        let equals = services.iter().take_while(|service| service.priority == priority);
        let total: u32 = equals.map(|service| u32::from(service.weight)).sum();
        let drawn = random.random_range(0..=total);
        let mut running = 0;
        let chosen = services.iter().position(|service| {
            running += u32::from(service.weight);
            running >= drawn
        });
        ordered.push(services.remove(chosen.unwrap_or_default()));
    }
    ordered
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng as _, rngs::StdRng};

    use super::*;

    fn service(priority: u16, weight: u16, target: &str) -> Service {
        Service { priority, weight, port: 1, target: target.to_owned() }
    }

    #[test]
    fn lower_priorities_come_first() {
        let mut random = StdRng::seed_from_u64(1);
        for _ in 0..50 {
            let services = vec![
                service(20, 9, "c"),
                service(5, 1, "a"),
                service(10, 0, "b"),
                service(20, 0, "d"),
            ];
            let ordered = order(services, &mut random);
            let names: Vec<_> = ordered.iter().map(|service| service.target.as_str()).collect();
            assert_eq!(names[..2], ["a", "b"]);
            assert_eq!(names.len(), 4);
        }
    }

    #[test]
    fn weights_are_shares() {
        let mut random = StdRng::seed_from_u64(2);
        let mut heavy_first = 0;
        for _ in 0..4000 {
            let services = vec![service(1, 10, "light"), service(1, 30, "heavy")];
            heavy_first += usize::from(order(services, &mut random)[0].target == "heavy");
        }
        assert!((2800..3200).contains(&heavy_first), "{heavy_first} of 4000");
    }

    #[test]
    fn nothing_stays_nothing() {
        assert!(order(Vec::new(), &mut StdRng::seed_from_u64(3)).is_empty());
    }
}
