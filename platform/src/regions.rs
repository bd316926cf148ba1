//! The regions of one installation.

use std::str::FromStr;

/// A region, and where its pages are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Region {
    pub name: String,
    /// `http://host:port` or `https://…`, without a path.
    pub url: String,
}

impl FromStr for Region {
    type Err = String;

    /// Reads `a=https://a.example.org`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || format!("'{text}' is no region; write a=https://a.example.org");
        let (name, url) = text.split_once('=').ok_or_else(wrong)?;
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://")).ok_or_else(wrong)?;
        if name.is_empty() || !name.chars().all(allowed) || rest.is_empty() || rest.contains(['/', '?', '#', '@']) {
            return Err(wrong());
        }
        Ok(Self { name: name.to_owned(), url: url.to_owned() })
    }
}

/// The names of the others.
///
/// # Errors
/// A sentence, if some are listed and this one is not among them, or one is listed twice.
pub fn others(regions: &[Region], own: &str) -> anyhow::Result<Vec<String>> {
    let names: Vec<&str> = regions.iter().map(|region| region.name.as_str()).collect();
    for (number, name) in names.iter().enumerate() {
        anyhow::ensure!(!names[..number].contains(name), "CHAT_SYNC_REGIONS: region {name} is listed twice");
    }
    anyhow::ensure!(
        names.is_empty() || names.contains(&own),
        "CHAT_SYNC_REGIONS lists {}, but CHAT_SYNC_REGION is {own}",
        names.join(", ")
    );
    Ok(names.into_iter().filter(|name| *name != own).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_is_a_name_and_an_address() {
        let region: Region = "a=https://a.example.org:8443".parse().unwrap();
        assert_eq!((region.name.as_str(), region.url.as_str()), ("a", "https://a.example.org:8443"));
        for wrong in
            ["a", "=http://x", "A=http://x", "a=x", "a=ftp://x", "a=http://", "a=http://x/path", "a=http://u@x"]
        {
            assert!(wrong.parse::<Region>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_list_names_this_region_and_no_region_twice() {
        let list = |names: &[&str]| -> Vec<Region> {
            names.iter().map(|name| format!("{name}=http://{name}").parse().unwrap()).collect()
        };
        assert_eq!(others(&list(&["a", "b"]), "b").unwrap(), ["a"]);
        assert!(others(&[], "b").unwrap().is_empty());
        assert!(others(&list(&["a", "b"]), "c").unwrap_err().to_string().contains("CHAT_SYNC_REGION is c"));
        assert!(others(&list(&["a", "a"]), "a").unwrap_err().to_string().contains("twice"));
    }
}
