pub struct DemoDocument {
    pub file: &'static str,
    pub text: &'static str,
}
pub struct DemoQuestion {
    pub question: &'static str,
    pub answer: Option<&'static str>,
}
pub const DOCUMENTS: &[DemoDocument] =
    &[DemoDocument { file: "a.md", text: "# Fares\n\nA bicycle costs 3 euros each way." }];
pub const QUESTIONS: &[DemoQuestion] =
    &[DemoQuestion { question: "What does a bicycle cost?", answer: None }];
